"""RFC 3461 over LMTP: parameters, and confirmations of delivery."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

import pytest

from protocols.ports import MailKind, SessionFactory
from storage.errors import StagingFull
from tests.support.mailhost import MailHost
from tests.support.outbox import FakeOutbox
from tests.support.wire import Wire

MESSAGE = b"Subject: hi\r\nX-Mark: here\r\n\r\nsecret body\r\n.\r\n"
BAD = b"501 5.5.4 Bad parameter value\r\n"
OK = b"250 2.1.5 Recipient ok\r\n"


@pytest.fixture
def outbox(host: MailHost) -> FakeOutbox:
    host.services.outbox = outbox = FakeOutbox()
    return outbox


@pytest.fixture
async def wire(outbox: FakeOutbox, factory: SessionFactory) -> Wire:
    wire = Wire(factory)
    assert b"250-DSN\r\n" in await wire.send(b"LHLO mx\r\n") or b"250 DSN\r\n" in wire.transport.output
    return wire


async def test_without_a_relay_it_is_not_known(factory: SessionFactory) -> None:
    wire = Wire(factory)
    assert b"DSN" not in await wire.send(b"LHLO mx\r\n")
    unknown = b"555 5.5.4 Parameter not known\r\n"
    assert await wire.send(b"MAIL FROM:<a@far.example> RET=HDRS\r\n") == unknown
    await wire.send(b"MAIL FROM:<a@far.example>\r\n")
    assert await wire.send(b"RCPT TO:<ann@example.test> NOTIFY=NEVER\r\n") == unknown


@pytest.mark.parametrize(
    "parameters",
    [
        b"RET=",
        b"RET",
        b"RET=SOME",
        b"RET=FULL RET=HDRS",
        b"ENVID",
        b"ENVID=a+b",
        b"ENVID=+C3+BC",
        b"ENVID=+0A",
        b"ENVID=" + b"x" * 101,
    ],
)
async def test_bad_parameters_of_mail(wire: Wire, parameters: bytes) -> None:
    assert (await wire.send(b"MAIL FROM:<a@far.example> " + parameters + b"\r\n")).startswith(b"501 5.5.4 ")


@pytest.mark.parametrize(
    "parameters",
    [
        b"NOTIFY",
        b"NOTIFY=",
        b"NOTIFY=NEVER,SUCCESS",
        b"NOTIFY=SUCCESS,SUCCESS",
        b"NOTIFY=SOMETIMES",
        b"NOTIFY=SUCCESS,",
        b"ORCPT=ann@example.test",
        b"ORCPT=rfc822;",
        b"ORCPT=;x",
        b"ORCPT=rfc822;a+0Ab",
        b"ORCPT=rfc822;+FF",
        b"ORCPT=rfc822;a+b@c",
        b"ORCPT=rfc822;" + b"x" * 494,
    ],
)
async def test_bad_parameters_of_rcpt(wire: Wire, parameters: bytes) -> None:
    await wire.send(b"MAIL FROM:<a@far.example>\r\n")
    answer = await wire.send(b"RCPT TO:<ann@example.test> " + parameters + b"\r\n")
    assert answer == BAD or answer == b"501 5.5.4 Bad syntax\r\n"


@pytest.mark.parametrize(
    "parameters",
    [
        b"NOTIFY=never",
        b"NOTIFY=DELAY,failure,Success",
        b"ORCPT=rfc822;ann+2Bx@example.test NOTIFY=FAILURE",
        b"ORCPT=utf-8;gr\\x{FC}n@example.test",
        b"ORCPT=x400;anything",
        b"ORCPT=rfc822;gr+C3+BCn@example.test",
        b"ORCPT=utf-8;gr+C3+BCn@example.test",
        b"ORCPT=rfc822;" + b"x" * 493,
    ],
)
async def test_good_parameters_of_rcpt(wire: Wire, parameters: bytes) -> None:
    await wire.send(b"MAIL FROM:<a@far.example> RET=full ENVID=QQ+2B314159\r\n")
    assert await wire.send(b"RCPT TO:<ann@example.test> " + parameters + b"\r\n") == OK


async def deliver(wire: Wire, *recipients: bytes, mail: bytes = b"<a@far.example>") -> bytes:
    await wire.send(
        b"MAIL FROM:" + mail + b"\r\n" + b"".join(b"RCPT TO:%s\r\n" % each for each in recipients)
    )
    await wire.send(b"DATA\r\n")
    return await wire.send(MESSAGE)


async def test_a_confirmation_for_who_wants_one(host: MailHost, outbox: FakeOutbox, wire: Wire) -> None:
    answers = await deliver(
        wire,
        b"<ann@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;annie+2Bx@far.example",
        b"<bob@example.test>",
        mail=b"<a@far.example> RET=HDRS ENVID=id+2B7",
    )
    assert answers == b"250 2.0.0 Delivered\r\n" * 2
    assert len(await host.inbox()) == 1
    (sent,) = outbox.sent
    assert (sent.envelope_from, sent.recipients, sent.kind) == ("", ("a@far.example",), MailKind.REPORT)
    report = cast("EmailMessage", message_from_bytes(sent.message, policy=policy.default))
    words, status, header = report.iter_parts()
    assert "ann@example.test" in words.get_content()
    text = status.as_string()
    assert "Original-Envelope-Id: id+7" in text
    assert "Original-Recipient: rfc822; annie+x@far.example" in text
    assert "Final-Recipient: rfc822; ann@example.test" in text
    assert "Action: delivered" in text
    assert "Status: 2.1.5" in text
    assert "bob" not in text
    assert "X-Mark: here" in header.as_string()
    assert b"secret body" not in sent.message


async def test_nobody_else_is_told(outbox: FakeOutbox, wire: Wire) -> None:
    await deliver(wire, b"<ann@example.test> NOTIFY=NEVER", b"<bob@example.test> NOTIFY=FAILURE,DELAY")
    await deliver(wire, b"<ann@example.test> NOTIFY=SUCCESS", mail=b"<>")
    assert outbox.sent == []


async def test_only_what_is_durable_is_confirmed(host: MailHost, outbox: FakeOutbox, wire: Wire) -> None:
    host.fail(2, is_after=False)  # the append
    answer = await deliver(wire, b"<ann@example.test> NOTIFY=SUCCESS")
    assert answer.startswith(b"451 ")
    assert outbox.sent == []


async def test_a_second_attempt_confirms_once(outbox: FakeOutbox, wire: Wire) -> None:
    for _ in range(2):
        assert await deliver(wire, b"<ann@example.test> NOTIFY=SUCCESS") == b"250 2.0.0 Delivered\r\n"
    assert len(outbox.sent) == 1


async def test_what_is_delivered_stays_so_without_a_confirmation(
    host: MailHost, outbox: FakeOutbox, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.failure = StagingFull("no room")
    assert await deliver(wire, b"<ann@example.test> NOTIFY=SUCCESS") == b"250 2.0.0 Delivered\r\n"
    assert len(await host.inbox()) == 1
    assert "confirmed" in caplog.text
