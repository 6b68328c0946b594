"""The queue of lessons: bounds, failures of the filter, recovery, the stop."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocols.ports import Identity
from protocols.relay.breaker import Breaker, BreakerState
from protocols.spamtraining import trainer as subject
from protocols.spamtraining.endpoint import EndpointDown
from protocols.spamtraining.trainer import Trainer, TrainingSettings
from storage.api import Body
from storage.errors import Corrupt
from storage.model import ContentRef, Mailbox, Uid
from tests.support.mailhost import MailHost
from tests.support.waiting import until

MESSAGE = b"Subject: cheap\r\n\r\nbuy now\r\n"


class Filter:
    """An endpoint that says what it is told to, and waits while it is closed."""

    def __init__(self) -> None:
        self.taught: list[dict[str, Any]] = []
        self.asked = 0
        self.answers: list[bool | Exception] = []  # in order; then True
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.is_closed = False

    async def post(self, body: bytes) -> bool:
        self.asked += 1
        await self.is_open.wait()
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.taught.append(json.loads(body))
        return answer

    async def close(self) -> None:
        self.is_closed = True


class School:
    """Ann's mailboxes, a filter, and a trainer with a clock by hand."""

    def __init__(self, host: MailHost, ann: Identity) -> None:
        self.host = host
        self.ann = ann
        self.filter = Filter()
        self.now = 0.0
        self.stop = asyncio.Event()
        self.build()

    def build(self, **settings: Any) -> None:
        self.trainer = Trainer(
            self.host.mail,
            self.host.bodies,
            self.filter,
            Breaker(3, 30.0, 1),
            TrainingSettings(**{"max_message_bytes": 10_000, "max_attachment_bytes": 0, **settings}),
            clock=lambda: self.now,
            sleep=lambda _seconds: asyncio.sleep(0),
        )

    def start(self) -> None:
        self.running = asyncio.create_task(self.trainer.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(60):
            await self.running

    async def mailbox(self, name: str) -> Mailbox:
        return await self.host.store.get_mailbox(self.ann.account_id, name)

    async def move(self, *uids: int, source: str = "INBOX", target: str = "Junk", **options: Any) -> None:
        there = await self.mailbox(target)
        here = await self.mailbox(source)
        copied = await self.host.store.move(here.id, [Uid(each) for each in uids], there.id)
        await self.trainer.moved(self.ann, here, there, [to for _, to in copied.pairs], **options)

    @property
    def results(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.trainer.results.items() if count}


@pytest.fixture
async def school() -> AsyncIterator[School]:
    host = MailHost()
    school = School(host, await host.add_account("ann@example.test"))
    await host.put(*(MESSAGE + b"%d\r\n" % number for number in range(10)))
    yield school
    if hasattr(school, "running"):
        await school.end()
        assert school.filter.is_closed


async def test_into_junk_and_back(school: School) -> None:
    school.start()
    await school.move(1)
    await until(lambda: not len(school.trainer))
    await school.move(1, source="Junk", target="INBOX")
    await until(lambda: not len(school.trainer))
    first, second = school.filter.taught
    assert (first["class"], first["from_mailbox"], first["to_mailbox"]) == ("spam", "INBOX", "Junk")
    assert (second["class"], second["from_mailbox"], second["to_mailbox"]) == ("ham", "Junk", "INBOX")
    assert base64.b64decode(first["message"]) == MESSAGE + b"0\r\n"
    assert first["account"] == "ann@example.test"
    assert first["hash"] == second["hash"]
    assert school.results == {("taught", "spam"): 1, ("taught", "ham"): 1}


async def test_what_says_nothing_is_not_told(school: School) -> None:
    school.start()
    await school.move(1, target="Archive")
    await school.move(2)
    await until(lambda: not len(school.trainer))
    await school.move(1, source="Junk", target="Trash")
    await until(lambda: not len(school.trainer))
    assert school.results == {("taught", "spam"): 1}


async def test_the_command_does_not_wait(school: School) -> None:
    school.filter.is_open.clear()
    school.start()
    async with asyncio.timeout(60):
        await school.move(1, 2, 3)
    assert len(school.trainer) == 3
    school.filter.is_open.set()


async def test_the_command_waits_when_it_is_to(school: School) -> None:
    school.build(waits_s=3600.0)
    school.start()
    await school.move(1, 2, 3)
    assert len(school.filter.taught) == 3


async def test_the_command_waits_for_no_longer_than_it_may(school: School) -> None:
    school.build(waits_s=3600.0)
    school.filter.is_open.clear()
    school.start()
    async with asyncio.timeout(60):
        await school.move(1, within_s=0.001)
    assert school.filter.taught == []
    school.filter.is_open.set()
    await until(lambda: school.filter.taught)


async def test_a_refusal_ends_the_lesson_and_says_nothing_against_the_filter(school: School) -> None:
    school.filter.answers = [False] * 4
    school.start()
    await school.move(1, 2, 3, 4)
    await until(lambda: not len(school.trainer))
    assert school.results == {("refused", "spam"): 4}
    assert school.trainer.breaker.state(school.now) is BreakerState.CLOSED


async def test_a_filter_that_fails_is_left_alone_and_learns_all_later(school: School) -> None:
    school.filter.answers = [EndpointDown("HTTP 500")] * 3
    school.start()
    await school.move(*range(1, 9))
    state = school.trainer.breaker.state
    await until(lambda: state(school.now) is BreakerState.OPEN)
    await until(lambda: not school.trainer._running)
    asked, waiting = school.filter.asked, len(school.trainer)  # a fourth one may have been on its way already
    await school.move(9)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (school.filter.asked, len(school.trainer)) == (asked, waiting + 1)
    school.now += 31
    await school.move(10)
    await until(lambda: not len(school.trainer))
    assert len({each["hash"] for each in school.filter.taught}) == 10
    assert school.results == {("taught", "spam"): 10}
    assert state(school.now) is BreakerState.CLOSED


async def test_a_message_that_the_filter_chokes_on_is_given_up(school: School) -> None:
    school.trainer.breaker.threshold = 1_000
    school.filter.answers = [EndpointDown("HTTP 500")] * subject.MAX_ATTEMPTS
    school.start()
    await school.move(1)
    await until(lambda: not len(school.trainer))
    assert school.results == {("failed", "spam"): 1}
    assert school.filter.asked == subject.MAX_ATTEMPTS


async def test_the_queue_is_bounded(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_WAITING", 5)
    monkeypatch.setattr(subject, "MAX_OF_ACCOUNT", 4)
    await school.move(*range(1, 8))
    assert len(school.trainer) == 4
    bob = await school.host.add_account("bob@example.test")
    inbox = await school.mailbox("INBOX")
    await school.trainer.moved(bob, inbox, await school.mailbox("Junk"), [Uid(1), Uid(2)])
    assert school.results == {("dropped", "spam"): 4}
    school.start()
    await until(lambda: not len(school.trainer))
    await school.move(8)
    await until(lambda: not len(school.trainer))
    assert school.results[("taught", "spam")] == 6


async def test_messages_that_cannot_be_told(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    school.build(max_message_bytes=len(MESSAGE) + 3)
    await school.move(1, 2)
    junk = await school.mailbox("Junk")
    await school.host.store.remove(junk.id, [Uid(1)])
    await school.host.put(MESSAGE * 2)
    await school.move(11)

    async def damaged(_ref: ContentRef, _prefix: bytes) -> Body:
        raise Corrupt("octets are wrong")

    monkeypatch.setattr(school.host.bodies, "open", damaged)
    school.start()
    await until(lambda: not len(school.trainer))
    assert school.results == {(each, "spam"): 1 for each in ("gone", "too_big", "unreadable")}
    assert school.filter.taught == []


async def test_storage_that_is_away_is_waited_for(school: School) -> None:
    await school.move(1)
    plan = school.host.fail(1, is_after=False)
    school.start()
    await until(lambda: not len(school.trainer))
    assert plan is not None
    assert school.results == {("taught", "spam"): 1}


async def test_the_stop_finishes_what_waits(school: School) -> None:
    await school.move(*range(1, 6))
    school.stop.set()
    school.start()
    await school.running
    assert len(school.filter.taught) == 5
    await school.move(6)
    assert school.results == {("taught", "spam"): 5, ("dropped", "spam"): 1}


async def test_the_stop_does_not_wait_for_a_filter_that_hangs(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "STOP_WITHIN_S", 0.01)
    monkeypatch.setattr(school.trainer, "_clock", asyncio.get_running_loop().time)
    school.filter.is_open.clear()
    school.start()
    await school.move(1, 2, 3)
    await until(lambda: school.filter.asked == 2)
    await school.end()
    assert school.results == {("dropped", "spam"): 3}
    assert not len(school.trainer)
