"""The outgoing side of a node: what is submitted is relayed, and what fails comes back to its sender."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from node.config import Config, Relay
from node.config import RelayQueue as RelayQueueConfig
from node.config.option import rows
from node.control import ControlRefused
from node.controlrelay import RelayCommands
from node.desk import Desk, Hub
from node.health import State
from node.relaybounces import LocalBouncer
from node.relaying import (
    QueueOutbox,
    RelayPart,
    RelayUnusable,
    judge_relay,
    judge_room,
    transport_of,
    worker_outbox,
)
from node.reload import ReloadRefused, takes_effect
from protocols.lmtp.recipients import RecipientDirectory
from protocols.ports import MailKind
from protocols.relay.breaker import Breaker
from protocols.relay.runner import Runner, RunnerSettings
from protocols.relay.smtp import SmtpTransport
from protocols.relay.transport import RelayDown
from protocols.sending.srs import Srs
from storage.dsn import NO_REQUEST, DsnRequest, MessageDsn, RecipientDsn, notify_from
from storage.errors import (
    CommitUnknown,
    InvalidName,
    NotFound,
    StagingFull,
    StorageError,
    Unavailable,
)
from storage.model import AccountId
from storage.relayfile import Verdict
from storage.relayqueue import RelayQueue
from storage.relayspool import RelaySpool
from tests.support.mailhost import MailHost
from tests.support.relaydisk import UnsyncedSpoolDisk
from tests.support.relayremote import Ledger

MESSAGE = b"From: ann@example.test\r\nSubject: x\r\n\r\nhello\r\n"


SRS = Srs("srs.test", b"secret")


class RelayHost:
    """A queue, a ledger instead of a relay, and accounts for reports."""

    def __init__(self, root: Path, host: MailHost) -> None:
        self.queue = RelayQueue(root, time.time, UnsyncedSpoolDisk())
        self.queue.open()
        self.host = host
        self.ledger = Ledger()
        self.breaker = Breaker(2, 0.05, 1)
        self.outbox = QueueOutbox(self.queue, lambda name: self.runner.offer(time.time(), name))
        directory = RecipientDirectory(host.services.accounts, clock=time.monotonic)
        self.runner = Runner(
            self.queue,
            self.ledger,
            self.breaker,
            LocalBouncer(host.services, directory.look_up, self.outbox, "mail.test", srs=SRS),
            host.send_log,
            RunnerSettings("mail.test", interval_s=0.05, max_attempts=3, backoff_s=(0.0,)),
            clock=time.time,
            monotonic=time.monotonic,
        )
        self.stop = asyncio.Event()
        self.commands = RelayCommands(self.queue, self.runner)

    def start(self) -> None:
        self.running = asyncio.create_task(self.runner.run(self.stop))

    async def close(self) -> None:
        self.stop.set()
        await self.running
        self.queue.close()

    async def submit(self, *to: str, sender: str = "ann@example.test", message: bytes = MESSAGE) -> str:
        return await self.outbox.submit(sender, to, message, kind=MailKind.REDIRECT, account=AccountId(1))

    async def settle(self) -> None:
        async with asyncio.timeout(60):
            while self.runner.busy_count or self.queue.ids("pending") or self.queue.ids("processing"):
                await asyncio.sleep(0.002)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RelayHost]:
    mail = MailHost()
    await mail.add_account("ann@example.test")
    relay = RelayHost(tmp_path / "relay", mail)
    relay.start()
    yield relay
    await relay.close()


async def test_what_is_submitted_is_relayed(host: RelayHost) -> None:
    await host.submit("a@x.test", "b@x.test")
    await host.settle()
    assert host.ledger.taken == {("ann@example.test", to, MESSAGE): 1 for to in ("a@x.test", "b@x.test")}
    assert host.outbox.submitted == {"redirect": 1}
    assert host.runner.figures.verdicts == {("redirect", "taken"): 2}


async def hold(host: RelayHost, name: str, *, ended: bool = False) -> str:
    """The name of the copy; ``ended``: nobody has released it in its time."""
    long_ago = RelaySpool(host.queue.root, lambda: time.time() - 7200, UnsyncedSpoolDisk())
    outbox = QueueOutbox(long_ago, lambda _name: None) if ended else host.outbox
    return await outbox.submit(
        "",
        [f"{name}@x.test"],
        MESSAGE,
        kind=MailKind.REDIRECT,
        account=AccountId(1),
        key=name.encode(),
        held_s=30,  # what is due later than anything may be is due now
    )


async def test_what_is_held_is_relayed_when_it_is_released(host: RelayHost) -> None:
    held, _also, withdrawn = [await hold(host, name) for name in ("held", "also", "withdrawn")]
    await host.submit("plain@x.test", sender="")
    await host.outbox.release(held)
    await host.outbox.release("unknown")
    await host.outbox.withdraw(withdrawn)
    await host.outbox.withdraw("unknown")
    async with asyncio.timeout(60):
        while len(host.ledger.taken) < 2:
            await asyncio.sleep(0.002)
    host.runner.look_soon()
    assert host.ledger.taken == {("", to, MESSAGE): 1 for to in ("held@x.test", "plain@x.test")}
    assert len(host.queue.ids("pending")) == 1


async def test_of_copies_that_nobody_released_one_goes(host: RelayHost) -> None:
    """Attempts that died after they had queued, here and on another node, which has claimed its own."""
    log = host.host.send_log
    for _attempt in range(3):
        await hold(host, "several", ended=True)
    ours = await hold(host, "claimed", ended=True)
    await log.claim_handover(AccountId(1), {b"claimed": ours, b"elsewhere": "k1-2"})
    await hold(host, "elsewhere", ended=True)
    host.runner.look_soon()
    await host.settle()
    assert host.ledger.taken == {("", f"{name}@x.test", MESSAGE): 1 for name in ("several", "claimed")}
    assert host.queue.ids("failed") == []


async def test_what_nobody_knows_of_waits_and_is_not_lost(
    host: RelayHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[StorageError] = []
    log, troubles = host.host.send_log, [Unavailable("away"), CommitUnknown("lost"), NotFound("gone")]
    real = log.claim_handover

    async def claim(account_id: AccountId, holders: dict[bytes, str]) -> frozenset[bytes]:
        if troubles:
            asked.append(troubles.pop(0))
            raise asked[-1]
        return await real(account_id, holders)

    monkeypatch.setattr(log, "claim_handover", claim)
    await hold(host, "late", ended=True)
    host.runner.look_soon()
    await host.settle()
    assert host.ledger.taken == {("", "late@x.test", MESSAGE): 1}
    assert len(asked) == 3, "the account that is gone has its mail relayed"


@pytest.mark.parametrize("is_local", [True, False])
async def test_a_sender_that_was_rewritten_is_told_under_the_old_address(
    host: RelayHost, is_local: bool
) -> None:
    original = "ann@example.test" if is_local else "bob@far.test"
    host.ledger.will_say("gone@x.test", "550 5.1.1 no such user")
    await host.submit("gone@x.test", sender=SRS.forward(original, int(time.time() // 86_400)))
    await host.settle()
    reported = [to for sender, to, _ in host.ledger.taken if not sender]
    assert (len(await host.host.inbox("ann@example.test")), reported) == (
        (1, []) if is_local else (0, [original])
    )


async def test_an_address_that_only_looks_rewritten_is_told_as_it_is(host: RelayHost) -> None:
    host.ledger.will_say("gone@x.test", "550 5.1.1 no such user")
    forged = "SRS0=aaaaaaaa=aa=far.test=bob@srs.test"
    await host.submit("gone@x.test", sender=forged)
    await host.settle()
    assert [to for sender, to, _ in host.ledger.taken if not sender] == [forged]


async def test_many_recipients_go_in_several_transactions(host: RelayHost) -> None:
    host.ledger.will_say("r150@x.test", "451 later", "250 ok")
    await host.submit(*(f"r{n}@x.test" for n in range(250)))
    await host.settle()
    assert [len(each) for each in host.ledger.transactions] == [100, 100, 50, 1]
    assert set(host.ledger.taken.values()) <= {0, 1}
    assert sum(host.ledger.taken.values()) == 250


async def test_a_local_sender_gets_one_report(host: RelayHost) -> None:
    host.ledger.will_say("gone@x.test", "550 5.1.1 no such user")
    message_id = await host.submit("a@x.test", "gone@x.test")
    await host.settle()
    (stored,) = await host.host.inbox("ann@example.test")
    report = message_from_bytes(stored.content, policy=policy.default)
    assert report.get_content_type() == "multipart/report"
    text, status, header = report.iter_parts()
    assert "550 5.1.1 no such user" in text.get_content()
    message_block, recipient_block = status.get_payload()
    assert recipient_block["Final-Recipient"] == "rfc822; gone@x.test"
    assert (recipient_block["Action"], recipient_block["Status"]) == ("failed", "5.1.1")
    assert message_block["Reporting-MTA"] == "dns; mail.test"
    assert "Subject: x" in header.as_string()
    assert host.queue.ids("failed") == [message_id]
    assert host.runner.figures.bounces == {"delivered": 1}


async def test_a_remote_sender_gets_one_report_by_the_relay(host: RelayHost) -> None:
    host.ledger.will_say("gone@x.test", "550 5.1.1 no such user")
    await host.submit("gone@x.test", sender="carl@far.test")
    await host.settle()
    ((sender, to, _),) = [each for each, count in host.ledger.taken.items() if count]
    assert (sender, to) == ("", "carl@far.test")
    assert host.runner.figures.bounces == {"queued": 1}


async def test_mail_without_a_sender_is_never_reported(host: RelayHost) -> None:
    host.ledger.will_say("carl@far.test", "550 5.1.1 no such user")
    await host.submit("carl@far.test", sender="")
    await host.settle()
    assert host.ledger.transactions == [("carl@far.test",)]
    assert host.runner.figures.bounces == {"none": 1}


async def test_after_max_attempts_it_has_failed(host: RelayHost) -> None:
    host.ledger.will_say("full@x.test", "452 4.2.2 full")
    message_id = await host.submit("full@x.test")
    await host.settle()
    assert host.ledger.transactions == [("full@x.test",)] * 3
    shown = await host.commands.show({"id": message_id})
    assert isinstance(shown, dict)
    assert (shown["state"], shown["attempts"]) == ("failed", 3)
    assert shown["verdicts"][0]["status"] == "5.4.7"
    host.ledger.will_say("full@x.test", "250 ok")
    assert await host.commands.retry({"all": True}) == {"retried": [message_id]}
    await host.settle()
    assert host.ledger.copies("full@x.test") == 1
    assert host.queue.ids("failed") == []


async def test_a_relay_that_is_down_is_left_alone_and_nothing_is_lost(host: RelayHost) -> None:
    host.ledger.failures.extend([RelayDown("4.4.1", "no answer")] * 2)
    for n in range(10):
        await host.submit(f"r{n}@x.test")
    await host.settle()
    assert sum(host.ledger.taken.values()) == 10
    assert host.runner.figures.relay_failures == 2
    assert host.queue.ids("failed") == []


async def test_a_bug_counts_as_an_attempt(host: RelayHost, caplog: pytest.LogCaptureFixture) -> None:
    host.ledger.failures.append(ZeroDivisionError("bug"))
    await host.submit("a@x.test")
    await host.settle()
    assert host.ledger.copies("a@x.test") == 1
    assert host.runner.figures.bugs == 1
    assert "could not be handled" in caplog.text


async def test_commands(host: RelayHost) -> None:
    host.ledger.will_say("gone@x.test", "550 5.1.1 no such user")
    message_id = await host.submit("gone@x.test", sender="")
    await host.settle()
    listed = await host.commands.all({"state": "failed"})
    assert isinstance(listed, dict)
    assert [each["id"] for each in listed["messages"]] == [message_id]
    stats = await host.commands.stats({})
    assert isinstance(stats, dict)
    assert (stats["failed"], stats["breaker"]) == (1, "closed")
    assert await host.commands.delete({"id": message_id}) == {"deleted": [message_id]}
    for command, arguments, code in (
        (host.commands.show, {"id": message_id}, "not_found"),
        (host.commands.delete, {"id": "../../etc"}, "not_found"),
        (host.commands.all, {"state": "lost"}, "usage"),
        (host.commands.all, {"limit": -1}, "usage"),
        (host.commands.adopt, {"directory": "relative"}, "usage"),
        (host.commands.adopt, {"directory": str(host.queue.root)}, "usage"),
        (host.commands.adopt, {"directory": "/nonexistent"}, "not_found"),
    ):
        with pytest.raises(ControlRefused) as refused:
            await command(arguments)
        assert refused.value.code == code


async def test_what_is_adopted_is_relayed(host: RelayHost, tmp_path: Path) -> None:
    gone = RelayQueue(tmp_path / "gone", time.time, UnsyncedSpoolDisk())
    gone.open()
    gone.submit("", ["far@x.test"], MESSAGE, kind="vacation", account=None)
    gone.close()
    assert await host.commands.adopt({"directory": str(gone.root)}) == {"pending": 1, "failed": 0}
    await host.settle()
    assert host.ledger.copies("far@x.test") == 1


async def test_health(host: RelayHost) -> None:
    assert judge_relay(host.runner, 0).state is State.OK
    assert "adopt again" in judge_relay(host.runner, 2).detail
    for _ in range(2):
        host.breaker.failed(time.monotonic())
    host.runner.figures.last_failure = "550 go away"
    assert "550 go away" in judge_relay(host.runner, 0).detail
    host.runner.figures.trouble = "disk full"
    assert judge_relay(host.runner, 0).state is State.DEGRADED


async def test_an_address_that_cannot_be_said_is_refused_at_once(host: RelayHost) -> None:
    with pytest.raises(InvalidName):
        await host.submit("a@x.test>\r\nDATA")


async def test_a_worker_tells_the_control_process_what_it_has_queued(tmp_path: Path) -> None:
    assert worker_outbox(Config(), lambda _id: None) is None
    path = str(tmp_path / "relay")
    config = Config(relay=Relay(type="smtp", smtp_host="mx.test"), relay_queue=RelayQueueConfig(path=path))
    part, hub = RelayPart(config), Hub(config, 1)
    part.queue.make_directories()
    heard: list[str] = []
    hub.on_relay_queued = heard.append
    outbox = worker_outbox(config, Desk(hub).notices["relay_queued"])
    assert outbox is not None
    name = await outbox.submit("", ["a@x.test"], MESSAGE, kind=MailKind.VACATION, account=None)
    assert heard == [name]
    assert part.queue.ids("pending") == [name]


@pytest.mark.parametrize(
    ("relay", "port"),
    [
        (Relay(type="smtp", smtp_host="mx.test"), 465),
        (Relay(type="smtp", smtp_host="mx.test", smtp_use_starttls=True), 587),
        (Relay(type="smtp", smtp_host="mx.test", smtp_tls=False), 25),
        (Relay(type="smtp", smtp_host="mx.test:2525"), 2525),
        (Relay(type="smtp", smtp_host="[2001:db8::25]:2525"), 2525),
        (Relay(type="smtp", smtp_host="[2001:db8::25]"), 465),
    ],
)
def test_ports_of_the_relay(relay: Relay, port: int) -> None:
    transport = transport_of(Config(relay=relay))
    assert isinstance(transport, SmtpTransport)
    assert transport.settings.port == port
    assert transport.settings.host in ("mx.test", "2001:db8::25")


def test_a_client_certificate_that_is_not_there() -> None:
    relay = Relay(type="smtp", smtp_host="mx.test", smtp_tls_cert_file="/nonexistent.pem")
    with pytest.raises(RelayUnusable, match="certificate files"):
        transport_of(Config(relay=relay))


async def test_two_nodes_do_not_share_a_queue(tmp_path: Path) -> None:
    path = str(tmp_path / "relay")
    config = Config(relay=Relay(type="smtp", smtp_host="mx.test"), relay_queue=RelayQueueConfig(path=path))
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await RelayPart(config).open(first)
        with pytest.raises(RelayUnusable, match="belongs to one node"):
            await RelayPart(config).open(second)


async def test_who_wants_no_report_gets_none(host: RelayHost) -> None:
    wishes = {"a@x.test": "NEVER", "b@x.test": "SUCCESS", "c@x.test": "FAILURE", "d@x.test": ""}
    for address in wishes:
        host.ledger.will_say(address, "550 5.1.1 no such user")
    recipients = tuple(RecipientDsn(notify_from(words)) for words in wishes.values())
    await host.outbox.submit(
        *("ann@example.test", list(wishes), MESSAGE),
        kind=MailKind.REDIRECT,
        account=AccountId(1),
        dsn=DsnRequest(MessageDsn(envid="e7"), recipients),
    )
    await host.settle()
    (stored,) = await host.host.inbox("ann@example.test")
    assert [address for address in wishes if address.encode() in stored.content] == ["c@x.test", "d@x.test"]
    assert b"Original-Envelope-Id: e7\r\n" in stored.content
    assert host.ledger.requests[0].recipients == recipients


async def test_a_message_that_nobody_wants_a_report_of_ends_all_the_same(host: RelayHost) -> None:
    host.ledger.will_say("a@x.test", "550 5.1.1 no such user")
    await host.outbox.submit(
        *("ann@example.test", ["a@x.test"], MESSAGE),
        kind=MailKind.REDIRECT,
        account=AccountId(1),
        dsn=DsnRequest(recipients=(RecipientDsn(notify_from("NEVER")),)),
    )
    await host.settle()
    assert await host.host.inbox("ann@example.test") == []
    assert host.runner.figures.bounces == {"unwanted": 1}
    assert len(host.queue.ids("failed")) == 1


class Crowd(Ledger):
    """Holds every transaction until ``release``, and counts those that are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.inside = self.most = 0

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
    ) -> list[Verdict]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.release.wait()
            return await super().send(sender, recipients, message, dsn)
        finally:
            self.inside -= 1

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.inside < count:
                await asyncio.sleep(0.002)


async def test_so_many_at_the_same_time_and_no_more(host: RelayHost) -> None:
    crowd = Crowd()
    settings = RunnerSettings("mail.test", interval_s=0.05, concurrency=3, batch_size=2, backoff_s=(0.0,))
    host.runner.replace(crowd, Breaker(5, 0.05, 1), settings)
    for n in range(12):
        await host.submit(f"r{n}@x.test")
    await crowd.wait_for(3)
    crowd.release.set()
    await host.settle()
    assert crowd.most == 3
    assert sum(crowd.taken.values()) == 12


async def test_a_relay_that_may_be_back_gets_few_at_first(host: RelayHost) -> None:
    """Half open: ``max_requests`` at once; one that fails leaves it alone again, and the others go on."""
    crowd = Crowd()
    crowd.failures.append(RelayDown("4.4.1", "no answer"))
    crowd.release.set()

    def hold_the_next() -> None:
        crowd.release.clear()
        crowd.on_send = lambda: None

    crowd.on_send = hold_the_next
    settings = RunnerSettings("mail.test", interval_s=0.05, concurrency=8, max_attempts=99, backoff_s=(0.0,))
    host.runner.replace(crowd, Breaker(1, 0.2, 2), settings)
    await host.submit("first@x.test")
    async with asyncio.timeout(60):
        while not host.runner.figures.relay_failures:
            await asyncio.sleep(0.002)
    crowd.most = 0
    for n in range(10):
        await host.submit(f"r{n}@x.test")
    await crowd.wait_for(2)
    assert crowd.most == 2
    crowd.release.set()
    await host.settle()
    assert sum(crowd.taken.values()) == 11


# --- another configuration while it runs ---


async def test_another_relay_from_the_next_attempt_on(host: RelayHost) -> None:
    """What is under way with the old one ends there, and only then its connections do."""
    arrived, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Ledger):
        async def send(
            self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
        ) -> list[Verdict]:
            arrived.set()
            await go_on.wait()
            assert not self.is_closed
            return await super().send(sender, recipients, message, dsn)

    slow, new = Slow(), Ledger()
    settings = RunnerSettings("mail.test", interval_s=0.05, max_attempts=1, backoff_s=(0.0,))
    host.runner.replace(slow, Breaker(2, 0.05, 1), settings)
    await host.submit("a@x.test")
    await arrived.wait()
    host.runner.replace(new, Breaker(2, 0.05, 1), settings)
    await host.submit("b@x.test")
    async with asyncio.timeout(60):
        while not new.copies("b@x.test"):
            await asyncio.sleep(0.002)
        assert not slow.is_closed
        go_on.set()
        while not slow.is_closed:
            await asyncio.sleep(0.002)
    await host.settle()
    assert (slow.copies("a@x.test"), slow.copies("b@x.test"), new.copies("a@x.test")) == (1, 0, 0)
    assert host.ledger.is_closed
    new.will_say("late@x.test", "451 later")
    await host.submit("late@x.test")
    await host.settle()
    assert len(host.queue.ids("failed")) == 1, "max_attempts = 1 now"


async def test_a_relay_that_was_left_alone_is_tried_at_once(host: RelayHost) -> None:
    asleep = Breaker(1, 3600.0, 1)
    settings = RunnerSettings("mail.test", interval_s=0.05, max_attempts=3, backoff_s=(0.0,))
    broken = Ledger()
    broken.failures.append(RelayDown("4.7.8", "535 wrong password"))
    host.runner.replace(broken, asleep, settings)
    await host.submit("a@x.test")
    async with asyncio.timeout(60):
        while not host.runner.figures.relay_failures:
            await asyncio.sleep(0.002)
    mended = Ledger()
    host.runner.replace(mended, Breaker(1, 3600.0, 1), settings)
    await host.settle()
    assert mended.copies("a@x.test") == 1


async def test_what_fails_at_the_old_relay_does_not_count_against_the_new_one(host: RelayHost) -> None:
    settings = RunnerSettings("mail.test", interval_s=0.05, max_attempts=3, backoff_s=(0.0,))
    broken, mended = Ledger(), Ledger()
    broken.failures.append(RelayDown("4.7.8", "535 wrong password"))
    broken.on_send = lambda: host.runner.replace(mended, Breaker(1, 3600.0, 1), settings)
    host.runner.replace(broken, Breaker(1, 3600.0, 1), settings)
    await host.submit("a@x.test")
    await host.settle()
    assert mended.copies("a@x.test") == 1


async def test_a_reload_with_a_certificate_that_is_not_there_changes_nothing(
    tmp_path: Path, host: RelayHost
) -> None:
    queue = RelayQueueConfig(path=str(tmp_path / "relay"))
    part = RelayPart(Config(relay=Relay(type="smtp", smtp_host="mx.test"), relay_queue=queue))
    part._runner = host.runner
    bad = Relay(type="smtp", smtp_host="mx.test", smtp_tls_ca_file="/nonexistent.pem")
    with pytest.raises(ReloadRefused, match="certificate files"):
        part.prepare(Config(relay=bad, relay_queue=queue))


async def test_a_node_without_a_relay_says_so(host: RelayHost) -> None:
    commands = RelayPart(Config()).commands()
    assert commands.keys() == host.commands.table().keys()
    for command in commands.values():
        with pytest.raises(ControlRefused, match="type is not set"):
            await command({})


def test_what_a_reload_can_change() -> None:
    fixed = [f"relay.{row.key}" for row in rows(Relay)] + [
        f"relay_queue.{row.key}" for row in rows(RelayQueueConfig)
    ]
    assert [key for key in fixed if not takes_effect(key, "")] == ["relay.type", "relay_queue.path"]


async def test_a_full_queue(tmp_path: Path) -> None:
    """StagingFull is 452 for LMTP; the limits can be raised without a restart."""
    relay, path = Relay(type="smtp", smtp_host="mx.test"), str(tmp_path / "relay")
    part = RelayPart(Config(relay=relay, relay_queue=RelayQueueConfig(path=path, max_messages=1)))
    part.queue.make_directories()
    outbox = part.outbox
    assert outbox is not None
    await outbox.submit("", ["a@x.test"], MESSAGE, kind=MailKind.REDIRECT, account=None)
    with pytest.raises(StagingFull):
        await outbox.submit("", ["b@x.test"], MESSAGE, kind=MailKind.REDIRECT, account=None)
    assert (outbox.refused, outbox.fill_ratio()) == (1, 1.0)
    assert "100% full" in judge_room(outbox.fill_ratio()).detail
    assert judge_room(0.5).state is State.OK
    outbox.obey(Config(relay=relay, relay_queue=RelayQueueConfig(path=path, max_messages=2)))
    await outbox.submit("", ["b@x.test"], MESSAGE, kind=MailKind.REDIRECT, account=None)


@pytest.mark.parametrize("has_dsn", [True, False])
async def test_who_wants_to_know_of_success(host: RelayHost, has_dsn: bool) -> None:
    """By the next system if that has a word for it, else by us; one that fails for a while is told later."""
    host.ledger.has_dsn = has_dsn
    wishes = {"a@x.test": "SUCCESS", "b@x.test": "NEVER", "late@x.test": "SUCCESS,FAILURE", "c@x.test": ""}
    host.ledger.will_say("late@x.test", "451 4.3.0 later", "250 2.0.0 ok")
    await host.outbox.submit(
        *("ann@example.test", list(wishes), MESSAGE),
        kind=MailKind.REDIRECT,
        account=AccountId(1),
        dsn=DsnRequest(recipients=tuple(RecipientDsn(notify_from(each)) for each in wishes.values())),
    )
    await host.settle()
    stored = [each.content for each in await host.host.inbox("ann@example.test")]
    if has_dsn:
        assert stored == []
        return
    assert all(b"Action: relayed\r\n" in each for each in stored)
    told = [[address for address in wishes if b"; " + address.encode() in each] for each in stored]
    assert told == [["a@x.test"], ["late@x.test"]]
    assert host.queue.ids("failed") == []
    assert sum(host.ledger.taken.values()) == 4
