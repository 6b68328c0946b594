"""Random histories, run on every implementation at once: they must agree on each answer, each visible
change must raise highestmodseq, and counters must equal a recount."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.model import FlagChange, Flags, MailboxId, ModSeq, NewMessage, SystemFlag, Uid
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings

from ..support.stores import MemoryStores, PostgresStores, Stores, staged

BOXES = st.integers(0, 1)
UIDS = st.lists(st.integers(1, 12), max_size=6)
FLAGS = st.builds(
    Flags,
    st.integers(0, 31).map(SystemFlag),
    st.frozensets(st.sampled_from(["a", "B", "b", "$Junk"]), max_size=2).filter(
        lambda k: not {"b", "B"} <= k
    ),
)
STEPS = st.one_of(
    st.tuples(st.just("append"), BOXES, FLAGS, st.integers(0, 3)),
    st.tuples(
        st.just("store"), BOXES, UIDS, st.sampled_from(FlagChange), FLAGS, st.none() | st.integers(1, 20)
    ),
    st.tuples(st.just("expunge"), BOXES, st.none() | UIDS),
    st.tuples(st.just("copy"), BOXES, UIDS, BOXES),
    st.tuples(st.just("move"), BOXES, UIDS, BOXES),
    st.tuples(st.just("undelete"), BOXES, UIDS),
)


async def run_step(stores: Stores, boxes: list[MailboxId], step: tuple) -> object:
    """The answer, without what may differ between implementations."""
    mail, (name, box, *rest) = stores.mail, step
    mailbox_id = boxes[box]
    match name:
        case "append":
            flags, which = rest
            message = NewMessage(mailbox_id, flags=flags, delivery_key=bytes([which]) * 32 if which else None)
            (answer,) = await mail.append(staged(b"body %d" % which), [message])
            return answer.uid, answer.modseq, answer.duplicate
        case "store":
            uids, change, flags, since = rest
            stored = await mail.store_flags(mailbox_id, _uids(uids), change, flags, since)
            return (
                [replace(state, internaldate=0) for state in stored.changed],
                stored.conflicts,
                stored.highestmodseq,
            )
        case "expunge":
            return await mail.expunge(mailbox_id, None if rest[0] is None else _uids(rest[0]))
        case "undelete":
            return replace(await mail.undelete(mailbox_id, _uids(rest[0])), uidvalidity=None)
        case _:
            uids, target = rest
            call = mail.copy if name == "copy" else mail.move
            return replace(await call(mailbox_id, _uids(uids), boxes[target]), uidvalidity=None)


def _uids(numbers: list[int]) -> list[Uid]:
    return [Uid(number) for number in sorted(set(numbers))]


async def picture(stores: Stores, mailbox_id: MailboxId) -> tuple[object, ModSeq]:
    """What a client could see, and highestmodseq."""
    view = await stores.mail.load_view(mailbox_id)
    visible = list(view.uids), list(view.flags), dict(view.keywords), list(view.sizes), list(view.modseqs)
    return visible, view.mailbox.highestmodseq


async def run_history(endpoint: EndpointSettings, steps: list[tuple]) -> None:
    database = await Database.open(DatabaseSettings(write=endpoint))
    try:
        every: list[Stores] = [MemoryStores(), PostgresStores(database)]
        boxes = []
        for stores in every:
            account_id = await stores.new_account()
            mine = (await stores.mail.list_mailboxes(account_id)).mailboxes[:2]
            boxes.append([mailbox.id for mailbox in mine])
        for step in steps:
            answers, after = [], []
            for stores, mine in zip(every, boxes, strict=True):
                before = [await picture(stores, mailbox_id) for mailbox_id in mine]
                answers.append(await run_step(stores, mine, step))
                now = [await picture(stores, mailbox_id) for mailbox_id in mine]
                for (seen, modseq), (sees, new_modseq) in zip(before, now, strict=True):
                    assert (new_modseq > modseq) == (seen != sees)
                for mailbox_id in mine:
                    await stores.audit(mailbox_id)
                after.append(now)
            assert answers[0] == answers[1]
            assert after[0] == after[1]
    finally:
        await database.close()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=3, max_size=12))
def test_implementations_agree(pg_database: EndpointSettings, steps: list[tuple]) -> None:
    asyncio.run(run_history(pg_database, steps))
