"""Appends that come at the same time: who goes with whom, and that nobody pays for another's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, cast

import asyncpg
import pytest

from storage.errors import CommitUnknown, NotFound, Unavailable
from storage.model import Flags, MailboxId, NewMessage, StagedContent, SystemFlag
from storage.postgres import grouping
from storage.postgres.grouping import AppendGroups, is_groupable

from ...support.stores import PostgresStores, staged

Pairs = Sequence[tuple[StagedContent, NewMessage]]
NEVER_S = 3600.0


class FakeStatements:
    """Each statement waits until the test lets it go on. ``gone`` and ``held`` are mailboxes."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.singles: list[int] = []
        self.ends: list[asyncio.Future[None]] = []
        self.gone: set[int] = set()
        self.held: set[int] = set()
        self.troubles: dict[int, Exception] = {}

    async def at_once(self, pairs: Pairs) -> list[Any]:
        ids = [message.mailbox_id for _, message in pairs]
        self.calls.append(list(ids))
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        await end
        for mailbox_id in ids:
            if mailbox_id in self.troubles:
                raise self.troubles[mailbox_id]
        return [{"mailbox_id": each} for each in ids if each not in self.gone | self.held]

    async def one(self, _staged: StagedContent, message: NewMessage) -> list[Any]:
        self.singles.append(message.mailbox_id)
        trouble = self.troubles.get(message.mailbox_id)
        if trouble is not None:
            raise trouble
        return [] if message.mailbox_id in self.gone else [{"mailbox_id": message.mailbox_id}]

    async def end(self, number: int) -> None:
        while len(self.ends) <= number:
            await asyncio.sleep(0)
        self.ends[number].set_result(None)


@pytest.fixture
def fake() -> FakeStatements:
    return FakeStatements()


def groups(fake: FakeStatements, patience_s: float = NEVER_S, company_s: float = 0.0) -> AppendGroups:
    """Every statement takes NEVER_S by its clock."""
    one = cast("Callable[[StagedContent, NewMessage], Awaitable[list[Any]]]", fake.one)
    clock = count(0.0, NEVER_S)
    return AppendGroups(
        one, fake.at_once, patience_s=patience_s, company_s=company_s, clock=lambda: next(clock)
    )


def send(to: AppendGroups, number: int, *, body: bytes = b"", key: bytes | None = None) -> asyncio.Task[Any]:
    message = NewMessage(MailboxId(number), delivery_key=key)
    return asyncio.create_task(to.append(staged(body or b"body %d" % number), message))


async def sent(to: AppendGroups, numbers: Sequence[int]) -> list[asyncio.Task[Any]]:
    """The first one's statement is under way when the others come."""
    first = send(to, numbers[0])
    await started(first)
    return [first, *(send(to, number) for number in numbers[1:])]


async def started(*tasks: asyncio.Task[Any]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_one_goes_at_once_and_those_that_come_meanwhile_together(fake: FakeStatements) -> None:
    shared = groups(fake)
    tasks = await sent(shared, range(4))
    await started(*tasks)
    assert fake.calls == [[0]]
    await fake.end(0)
    await fake.end(1)
    assert [await task for task in tasks] == [[{"mailbox_id": number}] for number in range(4)]
    assert (fake.calls, fake.singles) == ([[0], [1, 2, 3]], [])


async def test_what_comes_in_one_turn_of_the_loop_goes_together(fake: FakeStatements) -> None:
    shared = groups(fake)
    tasks = [send(shared, number) for number in range(3)]
    await started(*tasks)
    assert fake.calls == [[0, 1, 2]]
    await fake.end(0)
    assert [await task for task in tasks] == [[{"mailbox_id": number}] for number in range(3)]


async def test_who_was_answered_is_waited_for(fake: FakeStatements) -> None:
    shared = groups(fake, company_s=NEVER_S)
    first, *others = await sent(shared, range(3))
    await fake.end(0)
    await first
    await started(*others)
    assert fake.calls == [[0]]
    again = send(shared, 0)
    await started(again, *others)
    assert fake.calls == [[0], [1, 2, 0]]
    await fake.end(1)
    assert await asyncio.gather(again, *others) == [[{"mailbox_id": number}] for number in (0, 1, 2)]


async def test_a_full_group_waits_for_nobody(fake: FakeStatements, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "MAX_GROUP", 3)
    shared = groups(fake, company_s=NEVER_S)
    tasks = await sent(shared, range(4))
    await fake.end(0)
    await fake.end(1)
    await asyncio.gather(*tasks)
    assert fake.calls == [[0], [1, 2, 3]]


async def test_one_after_another_waits_for_nobody(fake: FakeStatements) -> None:
    shared = groups(fake, company_s=NEVER_S)
    for number in range(3):
        only = send(shared, number)
        await fake.end(number)
        assert await only == [{"mailbox_id": number}]


async def test_trouble_of_one_that_goes_alone_is_said_at_once(fake: FakeStatements) -> None:
    shared = groups(fake)
    fake.troubles[0] = Unavailable("away")
    (only,) = await sent(shared, [0])
    await fake.end(0)
    assert await asyncio.gather(only, return_exceptions=True) == [fake.troubles[0]]
    assert fake.singles == []


async def test_the_same_content_or_key_goes_with_the_next_group(fake: FakeStatements) -> None:
    shared = groups(fake)
    tasks = await sent(shared, [0])
    tasks += [send(shared, 1, body=b"x"), send(shared, 2, body=b"x")]
    tasks += [send(shared, 3, key=b"k" * 32), send(shared, 4, key=b"k" * 32)]
    await started(*tasks)
    for number in range(3):
        await fake.end(number)
    await asyncio.gather(*tasks)
    assert fake.calls == [[0], [1, 3], [2, 4]]


@pytest.mark.parametrize("trouble", [Unavailable("away"), asyncpg.PostgresError("strange"), NotFound("gone")])
async def test_the_trouble_of_one_is_not_that_of_the_others(fake: FakeStatements, trouble: Exception) -> None:
    shared = groups(fake)
    fake.troubles[2] = trouble
    fake.gone = {3}
    tasks = await sent(shared, range(5))
    await started(*tasks)
    await fake.end(0)
    await fake.end(1)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[2] is trouble
    assert [outcomes[1], outcomes[3], outcomes[4]] == [[{"mailbox_id": 1}], [], [{"mailbox_id": 4}]]
    assert fake.singles == [1, 2, 3, 4]


async def test_a_mailbox_that_is_held_is_waited_for_alone(fake: FakeStatements) -> None:
    shared = groups(fake)
    fake.held = {0, 2}
    tasks = await sent(shared, range(3))
    await started(*tasks)
    await fake.end(0)
    await fake.end(1)
    assert [await task for task in tasks] == [[{"mailbox_id": number}] for number in range(3)]
    assert fake.singles == [0, 2]


async def test_an_unknown_commit_is_unknown_for_all_and_nothing_is_written_again(
    fake: FakeStatements,
) -> None:
    shared = groups(fake)
    fake.troubles[1] = CommitUnknown("cut")
    tasks = await sent(shared, range(3))
    await started(*tasks)
    await fake.end(0)
    await fake.end(1)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes[1:]] == [CommitUnknown, CommitUnknown]
    assert fake.singles == []


async def test_who_goes_away_is_left_out_and_keeps_nobody(fake: FakeStatements) -> None:
    shared = groups(fake)
    tasks = await sent(shared, range(4))
    await started(*tasks)
    tasks[1].cancel()
    await asyncio.sleep(0)
    await fake.end(0)
    await started(*tasks[2:])
    tasks[2].cancel()  # its statement is under way
    await fake.end(1)
    assert await tasks[3] == [{"mailbox_id": 3}]
    assert fake.calls == [[0], [2, 3]]
    late = send(shared, 9)
    await fake.end(2)
    assert await late == [{"mailbox_id": 9}]


async def test_the_first_one_may_go_away_too(fake: FakeStatements) -> None:
    shared = groups(fake)
    first, second = await sent(shared, range(2))
    await started(first, second)
    first.cancel()
    await fake.end(0)
    await fake.end(1)
    assert await second == [{"mailbox_id": 1}]


async def test_a_statement_that_hangs_gives_its_place_away(fake: FakeStatements) -> None:
    shared = groups(fake, patience_s=0.0)
    first, second = await sent(shared, range(2))
    await fake.end(1)  # the first one has not ended
    assert await second == [{"mailbox_id": 1}]
    assert not first.done()
    await fake.end(0)
    assert await first == [{"mailbox_id": 0}]


async def test_groups_have_a_size(fake: FakeStatements, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "MAX_GROUP", 3)
    shared = groups(fake)
    tasks = await sent(shared, range(8))
    await started(*tasks)
    for number in range(4):
        await fake.end(number)
    await asyncio.gather(*tasks)
    assert fake.calls == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_what_is_large_or_for_several_goes_its_own_way() -> None:
    message = NewMessage(MailboxId(1))
    assert is_groupable(staged(b"small"), [message])
    assert not is_groupable(staged(b"small"), [message, message])
    large = staged(b"small")
    object.__setattr__(large, "encoded_bytes", grouping.MAX_MESSAGE_BYTES)
    assert not is_groupable(large, [message])


# --- with PostgreSQL ---


async def test_a_group_does_what_single_appends_do(postgres_stores: PostgresStores) -> None:
    mail = postgres_stores.mail
    boxes = [await postgres_stores.inbox() for _ in range(6)]
    flags = Flags(SystemFlag.SEEN | SystemFlag.DELETED, frozenset({"work", "$Later"}))
    before = postgres_stores.database.stats["write"]
    for turn in range(2):
        found = await asyncio.gather(
            *(
                mail.append(
                    staged(b"turn %d of %d" % (turn, number)),
                    [
                        NewMessage(
                            box,
                            prefix=b"X: %d\r\n" % number,
                            flags=flags if number % 2 else Flags(),
                            delivery_key=bytes([turn, number]) * 16 if number != 3 else None,
                        )
                    ],
                )
                for number, box in enumerate(boxes)
            )
        )
        assert [(each.mailbox_id, each.uid, each.duplicate) for (each,) in found] == [
            (box, turn + 1, False) for box in boxes
        ]
    assert postgres_stores.database.stats["write"] - before == 2  # of 12 messages
    for number, box in enumerate(boxes):
        await postgres_stores.audit(box)
        view = await mail.load_view(box)
        assert list(view.flags) == [int(flags.system) if number % 2 else 0] * 2
        assert dict(view.keywords) == ({1: flags.keywords, 2: flags.keywords} if number % 2 else {})


async def test_a_key_that_is_known_and_a_mailbox_that_is_gone_in_a_group(
    postgres_stores: PostgresStores,
) -> None:
    mail = postgres_stores.mail
    boxes = [await postgres_stores.inbox() for _ in range(4)]
    keys = [bytes([number]) * 32 for number in range(4)]
    await mail.append(staged(b"again"), [NewMessage(boxes[2], delivery_key=keys[2])])
    letters = [NewMessage(box, delivery_key=key) for box, key in zip(boxes, keys, strict=True)]
    letters[3] = NewMessage(MailboxId(10**12), delivery_key=keys[3])
    answers = await asyncio.gather(
        *(mail.append(staged(b"n %d" % number), [letter]) for number, letter in enumerate(letters)),
        return_exceptions=True,
    )
    done = [None if isinstance(each, BaseException) else (each[0].uid, each[0].duplicate) for each in answers]
    assert done == [(1, False), (1, False), (0, True), None]
    assert isinstance(answers[3], NotFound)
    for box in boxes[:3]:
        await postgres_stores.audit(box)


async def test_the_same_body_to_many_at_once_is_one_content(postgres_stores: PostgresStores) -> None:
    boxes = [await postgres_stores.inbox() for _ in range(5)]
    await asyncio.gather(*(postgres_stores.mail.append(staged(b"one"), [NewMessage(box)]) for box in boxes))
    ((contents,),) = await postgres_stores.database.read("SELECT count(*) FROM contents")
    assert contents == 1
    for box in boxes:
        await postgres_stores.audit(box)


async def test_nobody_waits_for_the_mailbox_of_another(postgres_stores: PostgresStores) -> None:
    database, mail = postgres_stores.database, postgres_stores.mail
    boxes = [await postgres_stores.inbox() for _ in range(4)]
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM mailboxes WHERE id = $1 FOR UPDATE", boxes[1])
        tasks = [
            asyncio.create_task(mail.append(staged(b"to %d" % number), [NewMessage(box)]))
            for number, box in enumerate(boxes)
        ]
        async with asyncio.timeout(60):
            await asyncio.gather(tasks[0], tasks[2], tasks[3])
        assert not tasks[1].done()
    ((answer,), *_) = await asyncio.gather(tasks[1])
    assert answer.uid == 1


async def test_bytes_that_wait_on_another_node_s_disk_are_brought_here(
    postgres_stores: PostgresStores,
) -> None:
    boxes = [await postgres_stores.inbox() for _ in range(3)]
    there = staged(b"same")
    await postgres_stores.mail.append(
        StagedContent(there.content, (), "elsewhere", there.encoded_bytes), [NewMessage(boxes[0])]
    )
    bodies = (staged(b"other"), staged(b"third"), there)
    await asyncio.gather(
        *(
            postgres_stores.mail.append(body, [NewMessage(box)])
            for body, box in zip(bodies, boxes, strict=True)
        )
    )
    rows = await postgres_stores.database.read("SELECT node FROM staged_contents")
    assert [row["node"] for row in rows] == [None, None, None]
    ((frames,),) = await postgres_stores.database.read("SELECT count(*) FROM staged_frames")
    assert frames == 3
