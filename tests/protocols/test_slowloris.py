"""A thousand connections that stall in every place where they can: gone on time, honest clients unharmed.

The wheel's clock is in the test's hand; CPU time is measured by ``python -m tests.bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from node.sessions import Sessions
from protocols.clock import ClockSettings
from protocols.connections import LiveConnections
from protocols.imap.session import MIN_IDLE_S
from protocols.lmtp.session import lmtp_sessions
from protocols.managesieve.service import ScriptService
from protocols.managesieve.session import managesieve_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy
from storage.memory.scripts import MemoryScriptStore
from tests.support.clockwork import HandClock
from tests.support.imap import ImapLab
from tests.support.mailhost import NOW, MailHost, mail_host
from tests.support.scripts import MarkedCompiler
from tests.support.wire import Wire

CROWD = 1000
DEFAULTS = ClockSettings(session_s=1800.0, min_bytes_per_minute=1024)
BEFORE_LOGIN_S, STALLED_S = 300.0, 120.0
POLICY = ServerPolicy(
    name="x",
    hostname="mail.example.test",
    insecure_auth=True,
    command_timeout_s=300.0,
    auth_idle_timeout_s=BEFORE_LOGIN_S,
)


@dataclass
class Servers:
    lab: ImapLab
    host: MailHost
    hand: HandClock
    sessions: Sessions

    def connect(self, protocol: str, clock: ClockSettings = DEFAULTS) -> Wire:
        make = {
            "imap": lambda: self.lab.factory,
            "pop3": lambda: pop3_sessions(self.host.services, POLICY, LocalMaildropLock()),
            "lmtp": lambda: lmtp_sessions(self.host.services, POLICY, now=lambda: NOW),
            "managesieve": lambda: managesieve_sessions(
                self.host.services,
                POLICY,
                ScriptService(MemoryScriptStore(self.host.tables), MarkedCompiler()),
            ),
        }
        live = LiveConnections(self.hand.wheel(), clock=clock, registry=self.sessions)
        live._session_ids = (f"{id(live)}.{n}" for n in range(CROWD))
        return Wire(make[protocol](), live=live)


@pytest.fixture
async def servers() -> Servers:
    lab = ImapLab(auth_idle_timeout_s=BEFORE_LOGIN_S)
    for _ in range(3):
        lab.mail.deliver()
    return Servers(lab, await mail_host(), HandClock(), Sessions())


LOGIN = b"a LOGIN ann@example.org secret\r\n"
SIEVE = b'AUTHENTICATE "PLAIN" "AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0"\r\n'
LMTP = b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n"
STALLS = [
    # nothing at all
    ("imap", b"", BEFORE_LOGIN_S),
    ("pop3", b"", BEFORE_LOGIN_S),
    ("lmtp", b"", 300.0),
    ("managesieve", b"", BEFORE_LOGIN_S),
    # inside a line
    ("imap", b"a LOGIN an", STALLED_S),
    ("pop3", b"USER an", STALLED_S),
    ("lmtp", b"LHLO mx.exa", STALLED_S),
    ("managesieve", b'NOOP "ha', STALLED_S),
    ("imap", LOGIN + b"b SELECT IN", STALLED_S),
    # in a SASL exchange, which a person may be answering
    ("imap", b"a AUTHENTICATE PLAIN\r\n", BEFORE_LOGIN_S),
    ("managesieve", b'AUTHENTICATE "PLAIN"\r\n', BEFORE_LOGIN_S),
    # inside a literal, small and large, and inside a message
    ("managesieve", b"NOOP {5+}\r\nan", STALLED_S),
    ("managesieve", SIEVE + b'PUTSCRIPT "a" {9000+}\r\nhalf', STALLED_S),
    ("imap", b"a LOGIN {5}\r\nan", STALLED_S),
    ("imap", LOGIN + b"b SEARCH SUBJECT {10}\r\nhalf", STALLED_S),
    ("imap", LOGIN + b"b APPEND INBOX {100000}\r\nSubject: half", STALLED_S),
    ("lmtp", LMTP + b"Subject: half", STALLED_S),
    ("lmtp", LMTP.replace(b"DATA", b"BDAT 5000") + b"Subject: half", STALLED_S),
    # in a refused literal that is read over
    ("imap", LOGIN + b"b APPEND Nowhere {100000+}\r\nhalf", STALLED_S),
    ("managesieve", SIEVE + b'PUTSCRIPT "a" {100000+}\r\nhalf', STALLED_S),
    # logged in and silent: the 30 minutes of RFC 9051 §5.4, and of absolute_session_timeout
    ("imap", LOGIN, MIN_IDLE_S),
    ("managesieve", SIEVE, MIN_IDLE_S),
]


@pytest.mark.parametrize(("protocol", "sent", "limit_s"), STALLS)
async def test_each_stall_ends_on_time_and_not_before(
    servers: Servers, protocol: str, sent: bytes, limit_s: float
) -> None:
    wire = servers.connect(protocol)
    await wire.send(sent)
    wire.received()
    servers.hand.pass_s(limit_s - 2)
    await wire.settle()
    assert not wire.is_closed
    servers.hand.pass_s(62)  # debts are looked at once a minute
    await wire.settle()
    assert wire.is_closed
    await wire.hang_up()
    servers.hand.pass_s(40)
    await wire.settle()
    assert servers.sessions.is_empty


DRIPS: list[tuple[str, bytes, Callable[[int], bytes]]] = [
    ("imap", b"", lambda second: b"a NOOP x"[second % 8 : second % 8 + 1]),
    ("imap", LOGIN + b"b APPEND INBOX {100000}\r\n", lambda _second: b"x"),
    ("lmtp", LMTP, lambda second: b"\r\n" if second % 10 == 0 else b""),
]


@pytest.mark.parametrize(("protocol", "sent", "drip"), DRIPS)
async def test_dripping_is_no_progress(
    servers: Servers, protocol: str, sent: bytes, drip: Callable[[int], bytes]
) -> None:
    wire = servers.connect(protocol)
    await wire.send(sent)
    for second in range(185):
        if data := drip(second):
            wire.feed(data)
        servers.hand.pass_s(1)
    await wire.settle()
    assert wire.is_closed


async def test_slow_but_honest_uploads_arrive(servers: Servers) -> None:
    """25 bytes a second, for more than the session time: an APPEND that makes progress is not cut."""
    wire = servers.connect("imap")
    size = 25 * 2000
    await wire.send(LOGIN + b"b APPEND INBOX {%d}\r\n" % size)
    for _ in range(2000):
        wire.feed(b"x" * 25)
        servers.hand.pass_s(1)
    assert not wire.is_closed
    answer = await wire.send(b"\r\n")
    assert b"b OK [APPENDUID" in answer
    assert answer.endswith(b"* BYE The session has lasted too long; connect again\r\n")


async def test_a_thousand_stalled_connections_and_three_honest_clients(servers: Servers) -> None:
    crowd = []
    for number in range(CROWD):
        protocol, sent, _ = STALLS[number % (len(STALLS) - 1)]
        crowd.append(servers.connect(protocol))
        crowd[-1].feed(sent)
    idler, reader, uploader = (servers.connect("imap") for _ in range(3))
    await idler.send(LOGIN + b"b SELECT INBOX\r\nc IDLE\r\n")
    await reader.send(LOGIN + b"b SELECT INBOX\r\n")
    await uploader.send(LOGIN + b"b APPEND INBOX {60000}\r\n")
    assert len(servers.sessions) == CROWD + 3
    for minute in range(6):
        assert b"x OK" in await reader.send(b"x FETCH 1:3 (FLAGS ENVELOPE)\r\n")
        uploader.feed(b"y" * 10_000)
        servers.hand.pass_s(60)
        assert len(servers.sessions) >= 3, minute
    for wire in crowd:
        await wire.hang_up()
    servers.hand.pass_s(40)
    for wire in crowd:
        await wire.settle()
        assert wire.is_closed
    assert len(servers.sessions) == 3
    assert b"b OK [APPENDUID" in await uploader.send(b"\r\n")
    await idler.settle()
    assert b"* 4 EXISTS" in idler.received()
    assert b"c OK" in await idler.send(b"DONE\r\n")
    assert servers.lab.services.memory.used_bytes == 0


async def test_idling_for_days_is_allowed(servers: Servers) -> None:
    wire = servers.connect("imap")
    await wire.send(LOGIN + b"b SELECT INBOX\r\nc IDLE\r\n")
    wire.received()
    servers.hand.pass_s(86_400)
    assert not wire.is_closed
    assert wire.received().count(b"* OK Still here") == pytest.approx(720, abs=15)
    assert b"c OK" in await wire.send(b"DONE\r\n")
    for _ in range(20):  # IDLE again every 29 minutes, as RFC 2177 §3 advises
        await wire.send(b"d IDLE\r\n")
        servers.hand.pass_s(29 * 60)
        assert b"d OK" in await wire.send(b"DONE\r\n")
