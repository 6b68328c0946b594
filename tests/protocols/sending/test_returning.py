"""Reports about mail that went on under a sender of our making go back to who sent it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.envelope import MailLoop, Returned
from protocols.lmtp.session import lmtp_sessions
from protocols.ports import MailKind, ServerPolicy
from protocols.sending.srs import Srs
from storage.errors import StagingFull, Unavailable
from storage.model import INBOX
from tests.support.sievehost import ANN, FROM, MESSAGE, NOW, SieveHost, sieve_host
from tests.support.wire import Wire

SRS = Srs("example.test", b"secret")
REPORT = b"Subject: failed\r\n\r\nno such user\r\n"


@pytest.fixture
async def host() -> SieveHost:
    host = await sieve_host()
    host.use(replace(host.means, srs=SRS))
    return host


def wire(host: SieveHost) -> Wire:
    policy = ServerPolicy(name="lmtp", hostname="mail.example.test", max_message_bytes=10_000)
    return Wire(lmtp_sessions(host.host.services, policy, now=lambda: NOW))


async def test_a_report_goes_back(host: SieveHost) -> None:
    mta = wire(host)
    sender = SRS.forward(FROM, host.means.today())
    said = await mta.send(
        b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\nRCPT TO:<%b>\r\nDATA\r\n"
        % (sender.encode(), ANN.encode())
    )
    assert said.split(b"\r\n")[-4:-1] == [b"250 2.1.5 Recipient ok"] * 2 + [
        b"354 End data with <CR><LF>.<CR><LF>"
    ]
    assert await mta.send(REPORT + b".\r\n") == b"250 2.0.0 Delivered\r\n" * 2
    (sent,) = host.outbox.sent
    assert (sent.envelope_from, sent.recipients) == ("", (FROM,))
    assert (sent.kind, sent.account) == (MailKind.BOUNCE, None)
    assert sent.message.startswith(b"Received: from x ([192.0.2.7])\r\n\tby mail.example.test")
    assert sent.message.endswith(REPORT)
    assert b"Return-Path" not in sent.message
    assert await host.count() == {INBOX: 1}


async def test_a_case_that_was_lost_on_the_way_does_no_harm(host: SieveHost) -> None:
    sender = SRS.forward("Bob.Dole@far.example", host.means.today()).lower()
    mta = wire(host)
    await mta.send(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\nDATA\r\n" % sender.encode())
    await mta.send(REPORT + b".\r\n")
    assert host.sent_to() == ["bob.dole@far.example"]


async def test_only_reports_and_only_what_we_have_sealed(host: SieveHost) -> None:
    sender = SRS.forward(FROM, host.means.today()).encode()
    mta = wire(host)
    said = await mta.send(b"LHLO x\r\nMAIL FROM:<spam@far.example>\r\nRCPT TO:<%b>\r\n" % sender)
    assert said.endswith(b"550 5.7.1 Only reports of failures come to this address\r\n")
    for forged in (sender.replace(b"from@", b"else@"), SRS.forward(FROM, host.means.today() - 30).encode()):
        said = await mta.send(b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\n" % forged)
        assert said.endswith(b"550 5.1.1 No such user\r\n")
    assert host.outbox.sent == []


async def test_without_rewriting_such_addresses_are_like_others(host: SieveHost) -> None:
    host.use(replace(host.means, srs=None))
    await host.host.add_account("srs0=ann@example.test")
    said = await wire(host).send(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<SRS0=ann@example.test>\r\n")
    assert said.endswith(b"250 2.1.5 Recipient ok\r\n")


async def test_trouble_is_for_later_and_loops_end(host: SieveHost) -> None:
    host.outbox.failure = StagingFull("full")
    assert await host.send(Returned(FROM), sender="", message=REPORT) == [host.outbox.failure]
    host.outbox.failure = None
    assert await host.send(Returned(FROM), sender="", message=REPORT) == [None]
    assert await host.send(Returned(FROM), sender="", message=REPORT) == [None]
    assert len(host.outbox.sent) == 1
    (loop,) = await host.send(Returned(FROM), sender="", message=b"Received: x\r\n" * 101 + MESSAGE)
    assert isinstance(loop, MailLoop)
    host.use(replace(host.means, outbox=None))
    (later,) = await host.send(Returned(FROM), sender="", message=REPORT)
    assert isinstance(later, Unavailable)
    assert host.host.intake.discarded == host.host.intake.taken  # nothing is stored here
