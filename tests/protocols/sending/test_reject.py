"""reject and ereject: who is refused, and who gets a report instead."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy

import pytest

from protocols.envelope import Refused
from protocols.lmtp.replies import refusal
from protocols.ports import MailKind
from storage.dsn import MessageDsn, Notify, RecipientDsn
from storage.errors import StagingFull
from storage.model import INBOX
from tests.support.sievehost import ANN, BOB, ENVELOPE, FROM, MESSAGE, SieveHost, sieve_host

REQUIRE = 'require ["reject", "ereject", "encoded-character"];'
WORDS = "Bitte nicht: zu groß"
UTF8 = replace(ENVELOPE, protocol="UTF8LMTPS")


@pytest.fixture
async def host() -> SieveHost:
    return await sieve_host()


async def test_plain_words_are_a_refusal_of_that_recipient(host: SieveHost) -> None:
    await host.put(REQUIRE + 'reject "no\nthanks";')
    ann, bob = await host.send(ANN, BOB)
    assert ann == Refused("no\nthanks")
    assert bob is None
    assert host.outbox.sent == []
    assert await host.count() == {}
    assert await host.count(BOB) == {INBOX: 1}


async def test_other_words_go_in_a_report(host: SieveHost) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}\n550 really";')
    assert await host.send() == [None]
    assert await host.count() == {}
    (sent,) = host.outbox.sent
    assert (sent.envelope_from, sent.recipients, sent.kind) == ("", (FROM,), MailKind.REJECT)
    report = message_from_bytes(sent.message, policy=policy.default)
    assert report.get_content_type() == "multipart/report"
    assert report["auto-submitted"] == "auto-replied"
    assert report["to"] == FROM
    words, status, header = report.iter_parts()  # type: ignore[attr-defined]
    assert WORDS in words.get_content()
    assert status.get_content_type() == "message/delivery-status"
    fields = status.get_payload()[1]
    assert (fields["final-recipient"], fields["action"], fields["status"]) == (
        f"rfc822; {ANN}",
        "failed",
        "5.7.1",
    )
    assert fields["diagnostic-code"] is None  # no server said anything
    assert "m1@far.example" in header.get_content()


async def test_a_report_is_sent_once(host: SieveHost) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}";')
    assert await host.send() == [None]
    host.outbox.sent.clear()  # relayed, and the answer to us was lost
    assert await host.send() == [None]
    assert host.outbox.sent == []


async def test_a_full_queue_is_for_later(host: SieveHost) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}";')
    host.outbox.failure = StagingFull("full")
    assert await host.send() == [host.outbox.failure]
    host.outbox.failure = None
    assert await host.send() == [None]
    assert len(host.outbox.sent) == 1


@pytest.mark.parametrize("verb", ["reject", "ereject"])
async def test_a_client_that_reads_utf8_is_told(host: SieveHost, verb: str) -> None:
    await host.put(REQUIRE + f'{verb} "{WORDS}";')
    (refused,) = await host.send(envelope=UTF8)
    assert refused == Refused(WORDS, is_utf8=True)
    assert isinstance(refused, Refused)
    assert refusal(refused.reason, is_utf8=refused.is_utf8).encode() == f"550 5.7.1 {WORDS}\r\n".encode()
    assert host.outbox.sent == []


@pytest.mark.parametrize(
    ("verb", "sender", "has_relay"), [("ereject", FROM, True), ("reject", "", True), ("reject", FROM, False)]
)
async def test_where_no_report_may_or_can_be_sent_it_is_refused(
    host: SieveHost, verb: str, sender: str, has_relay: bool
) -> None:
    if not has_relay:
        host.use(replace(host.means, outbox=None))
    await host.put(REQUIRE + f'{verb} "{WORDS}";')
    (refused,) = await host.send(sender=sender)
    assert isinstance(refused, Refused)
    assert refusal(refused.reason).encode() == b"550 5.7.1 Bitte nicht: zu gro?\r\n"
    assert host.outbox.sent == []


async def test_a_sender_that_no_report_can_reach_is_refused(host: SieveHost) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}";')

    async def unfit(*_args: object, **_options: object) -> str:
        from storage.errors import InvalidName

        raise InvalidName("no")

    host.outbox.submit = unfit  # type: ignore[method-assign, assignment]
    (refused,) = await host.send(sender='"a b"@far.example')
    assert isinstance(refused, Refused)


async def test_what_rejects_can_neither_keep_nor_send(host: SieveHost) -> None:
    """RFC 5429 §2.3: such a script fails, and the message stays."""
    for other in ("keep;", 'redirect "ann@away.test";'):
        await host.put(REQUIRE + f'reject "no"; {other}')
        assert await host.send(message=MESSAGE + other.encode()) == [None]
    assert (await host.count())[INBOX] == 2
    assert host.outbox.sent == []


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("nth", range(1, 7))
async def test_any_failing_call_makes_one_report(host: SieveHost, nth: int, is_after: bool) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}";')
    host.outbox.is_fast = True
    plan = host.fail(nth, is_after=is_after)
    for _ in range(3):
        if await host.send() == [None]:
            break
    else:
        pytest.fail("never answered")
    assert plan.has_fired == (nth <= 5)
    await host.end_holds()
    assert len(host.outbox.sent) == 1
    assert await host.count() == {}


async def test_a_report_names_the_message_and_the_recipient_as_the_sender_knows_them(host: SieveHost) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}";')
    found = await host.resolve(ANN)
    assert found is not None
    wishes = RecipientDsn(frozenset({Notify.FAILURE}), "rfc822;ann+2Bold@far.example")
    envelope = replace(ENVELOPE, dsn=MessageDsn("FULL", "a+20b"))
    assert await host.send(replace(found, dsn=wishes), envelope=envelope) == [None]
    (sent,) = host.outbox.sent
    assert b"Original-Envelope-Id: a b\r\n" in sent.message
    assert b"Original-Recipient: rfc822; ann+old@far.example\r\n" in sent.message


@pytest.mark.parametrize("notify", [Notify.NEVER, Notify.SUCCESS])
async def test_who_wants_no_report_of_failures_gets_none(host: SieveHost, notify: Notify) -> None:
    await host.put(REQUIRE + f'reject "{WORDS}";')
    found = await host.resolve(ANN)
    assert found is not None
    (refused,) = await host.send(replace(found, dsn=RecipientDsn(frozenset({notify}))))
    assert isinstance(refused, Refused)
    assert host.outbox.sent == []
