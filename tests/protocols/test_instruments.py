"""What is counted of commands, and that time spent waiting for a client is not the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from node.metrics.counting import ProtocolInstruments
from protocols.lmtp.session import lmtp_sessions
from protocols.managesieve.service import ScriptService
from protocols.managesieve.session import managesieve_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import Connection, Machine, ServerPolicy, Session
from storage.memory.scripts import MemoryScriptStore
from tests.support.echo import EchoMachine, EchoSession
from tests.support.imap import ImapLab
from tests.support.mailhost import mail_host
from tests.support.scripts import MarkedCompiler
from tests.support.wire import Wire

MESSAGE = b"Subject: x\r\n\r\nbody\r\n"


class Clock:
    """Stands in for ``perf_counter``; the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("protocols.driver.perf_counter", clock)
    return clock


class Timed(EchoSession):
    """Takes the work time at the end of every command, as sessions do."""

    def __init__(self, connection: Connection, machine: EchoMachine) -> None:
        super().__init__(connection, machine)
        self.took: list[float] = []

    def handle(self, event: object) -> Awaitable[None] | None:
        waiting = super().handle(event)
        if waiting is None:
            self.took.append(self.connection.take_work_s())
            return None
        return self.timed(waiting)

    async def timed(self, waiting: Awaitable[None]) -> None:
        await waiting
        await self.connection.drain()
        self.took.append(self.connection.take_work_s())


class Made:
    def __init__(self) -> None:
        self.session: Timed

    def __call__(self, connection: Connection) -> tuple[Machine, Session]:
        machine = EchoMachine()
        self.session = Timed(connection, machine)
        return machine, self.session


async def test_work_is_the_time_of_the_handler(clock: Clock) -> None:
    made = Made()
    wire = Wire(made)
    wire.feed(b"wait\n")
    await asyncio.sleep(0)
    clock.now += 3.0
    made.session.gate.set()
    await wire.settle()
    assert made.session.took == [3.0]


async def test_time_in_which_the_peer_does_not_read_is_not_work(clock: Clock) -> None:
    made = Made()
    wire = Wire(made)
    wire.feed(b"wait\n")
    await asyncio.sleep(0)
    wire.transport.stall()
    clock.now += 2.0
    wire.transport.write(b"x" * 100_000)  # above the high-water mark
    made.session.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    clock.now += 600.0  # the client sleeps
    wire.transport.take()
    await wire.settle()
    assert made.session.took == [2.0]


async def test_time_between_commands_is_not_work(clock: Clock) -> None:
    made = Made()
    wire = Wire(made)
    for word in (b"a\n", b"b\n"):
        wire.feed(word)
        clock.now += 60.0
    made.session.gate.set()
    wire.feed(b"wait\n")
    await wire.settle()
    clock.now += 60.0
    wire.feed(b"c\n")
    assert made.session.took == [0.0, 0.0, 0.0, 0.0]


async def test_bytes_are_counted_also_of_connections_that_are_gone() -> None:
    made = Made()
    wire = Wire(made)
    wire.feed(b"one\n")
    assert (wire.live.bytes_in, wire.live.bytes_out) == (4, len(b"hello\none\n"))
    await wire.hang_up()
    assert len(wire.live) == 0
    assert (wire.live.bytes_in, wire.live.bytes_out) == (4, len(b"hello\none\n"))


async def test_imap_commands_are_counted_by_name_and_status() -> None:
    seen = ProtocolInstruments()
    lab = ImapLab(instruments=seen)
    wire = await lab.log_in("INBOX")
    await wire.send(b"a NOOP\r\nb UID FETCH 1:* FLAGS\r\nc SELECT nowhere\r\nd XYZZY\r\n\r\n")
    await wire.send(b"e APPEND INBOX {%d}\r\n" % len(MESSAGE))
    await wire.send(MESSAGE + b"\r\n")
    await wire.send(b"f AUTHENTICATE PLAIN\r\n")
    await wire.send(b"g IDLE\r\n")
    await wire.send(b"DONE\r\n")
    assert dict(seen.commands) == {
        (b"LOGIN", b"OK"): 1,
        (b"SELECT", b"OK"): 1,
        (b"NOOP", b"OK"): 1,
        (b"FETCH", b"OK"): 1,
        (b"SELECT", b"NO"): 1,
        (b"UNKNOWN", b"BAD"): 3,  # XYZZY, an empty line, AUTHENTICATE after login
        (b"APPEND", b"OK"): 1,
        (b"IDLE", b"OK"): 1,
    }
    assert b"NOOP" not in seen.durations  # it had nothing to wait for
    assert sum(seen.durations[b"LOGIN"].counts) == 1
    assert sum(seen.sizes.counts) == 1
    assert seen.sizes.total == len(MESSAGE)


async def test_pop3_commands() -> None:
    seen = ProtocolInstruments()
    host = await mail_host()
    await host.put(MESSAGE)
    policy = ServerPolicy(name="pop3", hostname="h", insecure_auth=True, instruments=seen)
    wire = Wire(pop3_sessions(host.services, policy, LocalMaildropLock()))
    await wire.send(b"AUTH PLAIN\r\n")
    assert not seen.commands  # a challenge ends nothing
    await wire.send(b"*\r\n")
    await wire.send(b"USER ann@example.test\r\nPASS secret\r\nRETR 1\r\nRETR 9\r\nQUIT\r\n")
    assert dict(seen.commands) == {
        (b"AUTH", b"ERR"): 1,
        (b"USER", b"OK"): 1,
        (b"PASS", b"OK"): 1,
        (b"RETR", b"OK"): 1,
        (b"RETR", b"ERR"): 1,
        (b"QUIT", b"OK"): 1,
    }
    assert sum(seen.durations[b"RETR"].counts) == 1


async def test_managesieve_commands() -> None:
    seen = ProtocolInstruments()
    host = await mail_host()
    policy = ServerPolicy(name="managesieve", hostname="h", insecure_auth=True, instruments=seen)
    wire = Wire(
        managesieve_sessions(
            host.services, policy, ScriptService(MemoryScriptStore(host.tables), MarkedCompiler())
        )
    )
    await wire.send(b'AUTHENTICATE "PLAIN"\r\n')
    assert not seen.commands  # a challenge ends nothing
    await wire.send(b'"AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0"\r\n')
    await wire.send(b'PUTSCRIPT "a" {5+}\r\nke')
    assert len(seen.commands) == 1  # nor does the announcement of a script
    await wire.send(b'ep;\r\nPUTSCRIPT "a" {20000+}\r\n' + b"#" * 20_000 + b'\r\nGETSCRIPT "b"\r\nLOGOUT\r\n')
    assert dict(seen.commands) == {
        (b"AUTHENTICATE", b"OK"): 1,
        (b"PUTSCRIPT", b"OK"): 1,
        (b"PUTSCRIPT", b"NO"): 1,
        (b"GETSCRIPT", b"NO"): 1,
        (b"LOGOUT", b"OK"): 1,
    }
    assert sum(seen.durations[b"PUTSCRIPT"].counts) == 1


async def test_lmtp_commands_and_deliveries() -> None:
    seen = ProtocolInstruments()
    host = await mail_host()
    policy = ServerPolicy(name="lmtp", hostname="h", max_message_bytes=1000, instruments=seen)
    wire = Wire(lmtp_sessions(host.services, policy))
    await wire.send(
        b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nRCPT TO:<bob@example.test>\r\n"
        b"RCPT TO:<nobody@example.test>\r\nDATA\r\n" + MESSAGE + b".\r\n"
    )
    await wire.send(b"MAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n" + b"x" * 2000 + b"\r\n.\r\n")
    await wire.send(b"RSET\r\nQUIT\r\n")
    assert dict(seen.commands) == {
        (b"LHLO", b"2XX"): 1,
        (b"MAIL", b"2XX"): 2,
        (b"RCPT", b"2XX"): 3,
        (b"RCPT", b"5XX"): 1,
        (b"DATA", b"2XX"): 1,
        (b"DATA", b"5XX"): 1,
        (b"RSET", b"2XX"): 1,
        (b"QUIT", b"2XX"): 1,
    }
    assert dict(seen.deliveries) == {"2xx": 2, "5xx": 1}
    assert (sum(seen.sizes.counts), seen.sizes.total) == (1, len(MESSAGE))
