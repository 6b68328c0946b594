"""Time and memory limits of POP3 and LMTP: temporary failures, and the session lives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.lmtp.session import lmtp_sessions
from protocols.memory import NodeMemory
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy, SessionFactory
from tests.support.mailhost import NOW, MailHost, mail_host
from tests.support.stuck import Stuck
from tests.support.wire import Wire

LIMIT_S = 60.0
POLICY = ServerPolicy(
    name="x",
    hostname="mail.example.test",
    insecure_auth=True,
    command_limits_s=dict.fromkeys(("RETR", "TOP", "QUIT", "RCPT", "DATA"), LIMIT_S),
)


@pytest.fixture
async def host() -> MailHost:
    host = await mail_host()
    await host.put(b"Subject: one\r\n\r\nfirst\r\n", b"Subject: two\r\n\r\nsecond\r\n")
    return host


def pop3(host: MailHost) -> SessionFactory:
    return pop3_sessions(host.services, POLICY, LocalMaildropLock())


def stuck(host: MailHost, *hanging: str) -> Stuck:
    made = Stuck(host.mail.real, passing_s=LIMIT_S + 1)
    made.hanging.update(hanging)
    host.mail.real = made
    return made


async def test_pop3_message_that_cannot_be_read_in_time(host: MailHost) -> None:
    made = stuck(host, "fetch")
    wire = Wire(pop3(host))
    await wire.send(b"USER ann@example.test\r\nPASS secret\r\n")
    assert (await wire.send(b"RETR 1\r\n")).startswith(b"-ERR [SYS/TEMP] The command took too long")
    made.hanging.clear()
    assert b"first" in await wire.send(b"RETR 1\r\n")


async def test_pop3_quit_that_takes_too_long_says_so_and_leaves(host: MailHost) -> None:
    stuck(host, "remove")
    wire = Wire(pop3(host))
    await wire.send(b"USER ann@example.test\r\nPASS secret\r\nDELE 1\r\n")
    wire.received()
    assert (await wire.send(b"QUIT\r\n")).startswith(b"-ERR [SYS/TEMP] Messages were not removed")
    assert wire.is_closed


async def test_pop3_rows_are_charged_and_given_back(host: MailHost) -> None:
    host.services.memory = NodeMemory(1_000)
    wire = Wire(pop3(host))
    await wire.send(b"USER ann@example.test\r\nPASS secret\r\n")
    assert (await wire.send(b"TOP 1 1\r\n")).startswith(b"-ERR [SYS/TEMP] That needs too much memory")
    host.services.memory.total_bytes = 100_000
    assert b"first" in await wire.send(b"TOP 1 1\r\n")
    assert 0 < host.services.memory.used_bytes < 1_000
    await wire.send(b"QUIT\r\n")
    await wire.settle()
    assert host.services.memory.used_bytes == 0


async def test_lmtp_recipient_and_message_that_take_too_long(host: MailHost) -> None:
    made = stuck(host, "append")
    wire = Wire(lmtp_sessions(host.services, POLICY, now=lambda: NOW))
    await wire.send(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nRCPT TO:<bob@example.test>\r\n")
    wire.received()
    answer = await wire.send(b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n")
    assert answer.count(b"451 4.3.0 This takes too long; try again later\r\n") == 2
    assert host.intake.open_spools == 0
    made.hanging.clear()
    await wire.send(b"MAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\n")
    assert b"250 2.0.0 Delivered" in await wire.send(b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n")
    accounts = Stuck(host.accounts.real, passing_s=LIMIT_S + 1)
    accounts.hanging.add("recipient")
    host.accounts.real = accounts
    fresh = Wire(lmtp_sessions(host.services, replace(POLICY), now=lambda: NOW))
    answer = await fresh.send(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\n")
    assert answer.endswith(b"451 4.3.0 This takes too long; try again later\r\n")
