"""Vacation from the message that comes to the answer that goes."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from protocols.ports import MailKind
from protocols.sending.means import SendingLimits
from storage.errors import CommitUnknown, StagingFull, StorageError, Unavailable
from storage.model import INBOX
from tests.support.mailhost import NOW
from tests.support.sievehost import ANN, BOB, FROM, SieveHost, sieve_host

from .letters import message, parsed

REQUIRE = 'require ["vacation", "vacation-seconds", "fcc", "mailbox", "fileinto", "imap4flags", "enotify"];'
AWAY = REQUIRE + 'vacation "I am away.";'
DAY_S = 86400


@pytest.fixture
async def host() -> SieveHost:
    return await sieve_host()


def mail(number: int = 1, **fields: str) -> bytes:
    return message(**{"Message_ID": f"<{number}@far.example>", "From": FROM} | fields)


async def days_pass(host: SieveHost, days: float) -> None:
    later = host.host.tables.now() + timedelta(days=days)
    host.host.tables.now = lambda: later


async def test_the_answer(host: SieveHost) -> None:
    await host.put(AWAY)
    assert await host.send(message=mail(References="<0@far.example>")) == [None]
    (sent,) = host.outbox.sent
    assert (sent.envelope_from, sent.recipients, sent.kind) == ("", (FROM,), MailKind.VACATION)
    answer = parsed([sent.message])
    assert answer["From"] == ANN
    assert answer["To"] == FROM
    assert answer["Subject"] == "Auto: Lunch?"
    assert answer["In-Reply-To"] == "<1@far.example>"
    assert answer["References"] == "<0@far.example> <1@far.example>"
    assert answer["Auto-Submitted"] == "auto-replied (vacation)"
    assert answer["Date"].datetime == NOW
    assert answer["Message-ID"].endswith("@mail.example.test>")
    assert answer.get_content().strip() == "I am away."
    assert await host.count() == {INBOX: 1}


async def test_what_the_script_says_of_the_answer(host: SieveHost) -> None:
    await host.host.add_alias(ANN, "annie@example.test")
    await host.put(
        REQUIRE + 'vacation :subject "Bin weg – bis März" :from "Änn <annie@example.test>" :mime'
        " text:\nContent-Type: text/html; charset=utf-8\nBcc: eve@evil.test\n\n<p>Grüße</p>\n.\n;"
    )
    assert await host.send(message=mail()) == [None]
    answer = parsed([host.outbox.sent[0].message])
    assert answer["Subject"] == "Bin weg – bis März"
    assert answer["From"] == "Änn <annie@example.test>"
    assert answer["Bcc"] is None
    assert answer.get_content_type() == "text/html"
    assert answer.get_content().strip() == "<p>Grüße</p>"


async def test_the_answer_comes_from_the_address_that_was_written_to(host: SieveHost) -> None:
    await host.host.add_alias(ANN, "sales@example.test")
    await host.put(AWAY)
    assert await host.send(message=mail(To="x@y.test, Sales+q@example.test")) == [None]
    assert parsed([host.outbox.sent[0].message])["From"] == "Sales+q@example.test"


async def test_a_subject_from_outside_starts_no_field(host: SieveHost) -> None:
    await host.put(AWAY)
    await host.send(message=mail(Subject="=?utf-8?q?Hi=0D=0ABcc:_eve@evil.test=0D=0A=0D=0AX?="))
    answer = parsed([host.outbox.sent[0].message])
    assert answer["Bcc"] is None
    assert answer["Subject"] == "Auto: Hi Bcc: eve@evil.test X"


async def test_each_sender_is_answered_once_in_the_period(host: SieveHost) -> None:
    await host.put(AWAY)
    for number in range(3):
        assert await host.send(message=mail(number)) == [None]
    assert await host.send(message=mail(4), sender="OTHER@far.example") == [None]
    assert await host.send(message=mail(5), sender="other@far.example") == [None]
    assert host.sent_to() == [FROM, "OTHER@far.example"]
    await days_pass(host, 7.1)
    assert await host.send(message=mail(6)) == [None]
    assert host.sent_to()[2:] == [FROM]
    assert await host.count() == {INBOX: 6}


async def test_a_sender_whose_host_tags_addresses_is_one_sender(host: SieveHost) -> None:
    await host.put(AWAY)
    tags = ("", "prvs=0717a2b3c4=", "prvs=0718d5e6f7=", "btv1==123abc==")
    for number, tag in enumerate(tags):
        await host.send(message=mail(number), sender=f"{tag}bob@far.example")
    assert host.sent_to() == ["bob@far.example"]
    await days_pass(host, 8)
    await host.send(message=mail(9), sender=f"{tags[1]}bob@far.example")
    assert host.sent_to()[1:] == [f"{tags[1]}bob@far.example"]  # answers go to the address as it is


@pytest.mark.parametrize(
    ("before", "after", "answers"),
    [
        (':handle "h" "One."', ':handle "h" "Two."', 1),
        (':handle "h" "One."', ':handle "i" "One."', 2),
        ('"One."', '"Two."', 2),
        ('"One."', ':subject "S" "One."', 2),
        (':days 3 "One."', ':days 5 "One."', 1),
    ],
)
async def test_other_words_are_another_vacation(
    host: SieveHost, before: str, after: str, answers: int
) -> None:
    for number, arguments in enumerate((before, after)):
        await host.put(f"{REQUIRE} vacation {arguments};")
        assert await host.send(message=mail(number)) == [None]
    assert len(host.outbox.sent) == answers


@pytest.mark.parametrize(
    ("period", "days", "answers"),
    [
        (":days 1", 0.9, 1),
        (":days 1", 1.1, 2),
        (":days 0", 0.9, 1),  # less than a day is a day (RFC 5230 §4.1)
        (":days 365", 364, 1),
        (":days 100000", 366, 2),
        (":seconds 60", 50 / DAY_S, 1),
        (":seconds 60", 70 / DAY_S, 2),
        (":seconds 0", 0, 2),  # RFC 6131 §2: no memory
        ("", 6.9, 1),
    ],
)
async def test_periods(host: SieveHost, period: str, days: float, answers: int) -> None:
    await host.put(f'{REQUIRE} vacation {period} "Away.";')
    await host.send(message=mail(1))
    await days_pass(host, days)
    await host.send(message=mail(2))
    assert len(host.outbox.sent) == answers


@pytest.mark.parametrize("period", ["", ":seconds 0", ":seconds 1"])
async def test_a_message_that_comes_again_is_not_answered_again(host: SieveHost, period: str) -> None:
    await host.put(f'{REQUIRE} vacation {period} "Away.";')
    await host.send(message=mail())
    assert len(host.outbox.sent) == 1
    host.outbox.sent = []  # it has left the queue
    for _ in range(2):
        await days_pass(host, 0.1)
        assert await host.send(message=mail()) == [None]
        assert not host.outbox.sent


@pytest.mark.parametrize(
    "fields",
    [
        {"List_Id": "<l.test>"},
        {"Auto_Submitted": "auto-generated"},
        {"Precedence": "bulk"},
        {"To": "x@y.test"},
    ],
)
async def test_no_answer_leaves_no_memory(host: SieveHost, fields: dict[str, str]) -> None:
    await host.put(AWAY)
    await host.send(message=mail(1, **fields))
    assert not host.outbox.sent
    assert "claim_answer" not in host.redirect_log.calls
    await host.send(message=mail(2))
    assert len(host.outbox.sent) == 1


async def test_answers_do_not_answer_each_other(host: SieveHost) -> None:
    await host.put(AWAY)
    await host.send(message=mail())
    (sent,) = host.outbox.sent
    await host.send(message=sent.message.replace(FROM.encode(), ANN.encode()), sender=FROM + "x")
    assert len(host.outbox.sent) == 1


@pytest.mark.parametrize("limit", [0, 2])
async def test_an_account_answers_only_so_many(host: SieveHost, limit: int) -> None:
    host.use(dataclasses.replace(host.means, limits=SendingLimits(answers=limit)))
    await host.put(AWAY)
    for number in range(4):
        assert await host.send(message=mail(number), sender=f"s{number}@far.example") == [None]
    assert len(host.outbox.sent) == (limit or 4)
    assert await host.count() == {INBOX: 4}
    await days_pass(host, 1.1)  # who was not answered was not remembered either
    await host.send(message=mail(9), sender="s3@far.example")
    assert len(host.outbox.sent) == (limit or 3) + 1


async def test_without_a_relay_nobody_is_answered(host: SieveHost) -> None:
    host.use(dataclasses.replace(host.means, outbox=None))
    await host.put(AWAY)
    assert await host.send(message=mail()) == [None]
    assert await host.count() == {INBOX: 1}
    assert "claim_answer" not in host.redirect_log.calls


# --- copies ---------------------------------------------------------------------------------------


async def test_a_copy_is_filed_where_the_script_says(host: SieveHost) -> None:
    await host.put(REQUIRE + 'vacation :fcc "Out" :create :flags ["\\\\Seen", "$auto"] "Away.";')
    assert await host.send(message=mail()) == [None]
    stored = await host.stored()
    assert stored["Out"] == [host.outbox.sent[0].message]
    assert len(stored[INBOX]) == 1
    (box,) = (each for each in host.host.tables.mailboxes.values() if each.name == "Out")
    (copy,) = box.messages.values()
    assert copy.flags.keywords == {"$auto"}
    assert copy.flags.system.name == "SEEN"


async def test_there_is_no_copy_of_what_was_not_sent(host: SieveHost) -> None:
    await host.put(REQUIRE + 'vacation :fcc "Out" :create "Away.";')
    await host.send(message=mail(1))
    await host.send(message=mail(1))
    await host.send(message=mail(2))
    assert await host.count() == {INBOX: 2, "Out": 1}


async def test_copies_of_several_sent_for_one_message_are_all_there(host: SieveHost) -> None:
    await host.put(
        REQUIRE + 'vacation :fcc "Sent" "Away.";'
        'notify :fcc "Sent" "mailto:a@pager.test"; notify :fcc "Archive" "mailto:b@pager.test";'
    )
    assert await host.send(message=mail()) == [None]
    assert await host.count() == {INBOX: 1, "Sent": 2, "Archive": 1}
    assert len(host.outbox.sent) == 3


@pytest.mark.parametrize("call", ["append", "take"])
async def test_a_copy_that_cannot_be_filed_delays_no_message(host: SieveHost, call: str) -> None:
    await host.put(REQUIRE + 'vacation :fcc "Sent" "Away.";')
    watched = host.host.mail if call == "append" else host.host.intake
    real, calls = getattr(watched, call), 0

    async def second_fails(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("away")
        return await real(*args)

    setattr(watched, call, second_fails)
    assert await host.send(message=mail()) == [None]
    assert calls == 2
    assert await host.count() == {INBOX: 1}
    assert len(host.outbox.sent) == 1


# --- trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [StagingFull("full"), Unavailable("away")])
async def test_a_full_queue_delays_no_message_and_the_next_is_answered(
    host: SieveHost, trouble: StorageError
) -> None:
    await host.put(REQUIRE + 'vacation :fcc "Sent" "Away.";')
    host.outbox.failure = trouble
    assert await host.send(message=mail(1)) == [None]
    host.outbox.failure = None
    assert await host.count() == {INBOX: 1}
    assert await host.send(message=mail(2)) == [None]
    assert host.sent_to() == [FROM]
    assert await host.count() == {INBOX: 2, "Sent": 1}


async def test_an_unknown_commit_of_the_memory_sends_nothing(host: SieveHost) -> None:
    await host.put(AWAY)
    host.redirect_log.after["claim_answer"] = [CommitUnknown("lost")]
    for number in range(2):
        assert await host.send(message=mail(number)) == [None]
    assert not host.outbox.sent
    assert await host.count() == {INBOX: 2}


@pytest.mark.parametrize("is_after", [False, True])
async def test_trouble_at_any_call_loses_no_message_and_never_answers_twice(is_after: bool) -> None:
    """The sender's server tries again until it is told 250, and once more because that reply was lost."""
    answers = set()
    for nth in range(1, 40):
        host = await sieve_host()
        await host.put(AWAY)
        plan = host.fail(nth, is_after=is_after)
        for _ in range(2):
            await host.send_until_taken(mail())
        assert await host.count() == {INBOX: 1}
        assert len(host.outbox.sent) <= 1
        answers.add(len(host.outbox.sent))
        if not plan.has_fired:
            break
    else:
        pytest.fail("the fault always fires")
    assert answers == ({0, 1} if is_after else {1})  # lost with the reply of the memory, or sent


async def test_of_two_nodes_with_one_memory_one_answers(host: SieveHost) -> None:
    await host.put(f'{REQUIRE} vacation "Away.";')
    await asyncio.gather(*(host.send(message=mail(number)) for number in range(6)))
    assert len(host.outbox.sent) == 1
    assert await host.count() == {INBOX: 6}


async def test_an_answer_whose_node_dies_is_lost_and_not_made_up_for(host: SieveHost) -> None:
    await host.put(AWAY)
    host.watched_outbox.faults["submit"] = [asyncio.CancelledError()]
    with pytest.raises(asyncio.CancelledError):
        await host.send(message=mail(1))
    assert await host.send(message=mail(1)) == [None]  # its sender's server tries again
    assert await host.send(message=mail(2)) == [None]
    assert not host.outbox.sent
    assert await host.count() == {INBOX: 2}


async def carry(host: SieveHost, sender: str | None) -> int:
    """Deliver what lies in the outbox, as a relay would; how many messages. ``sender`` replaces the null
    path, as broken gateways do."""
    sent, host.outbox.sent = host.outbox.sent, []
    for each in sent:
        for address in each.recipients:
            path = each.envelope_from or (sender or "")
            assert await host.send(address, message=each.message, sender=path) == [None]
    return len(sent)


@pytest.mark.parametrize("sender", [None, "gateway@example.net"])
async def test_two_who_are_away_do_not_write_to_each_other_for_ever(
    host: SieveHost, sender: str | None
) -> None:
    script = f'{REQUIRE} vacation :seconds 0 "Away."; notify "mailto:{BOB}"; notify "mailto:{ANN}";'
    for address in (ANN, BOB):
        await host.put(script, address)
    await host.send(message=mail(1, From=f"Bob <{BOB}>"), sender=BOB)
    assert await carry(host, sender) == 3  # the answer, and a notification to each
    assert await carry(host, sender) == 0
    assert await host.count(ANN) == {INBOX: 2}
    assert await host.count(BOB) == {INBOX: 2}


async def test_a_large_header_is_read_beside_the_loop(
    host: SieveHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = set()

    async def to_thread(look: Any, *rest: Any) -> Any:
        beside.add(look.__module__)
        return look(*rest)

    await host.put(f'{REQUIRE} vacation "Away."; notify "mailto:{BOB}";')
    monkeypatch.setattr("protocols.sending.large.asyncio.to_thread", to_thread)
    await host.send(message=mail(1))
    assert len(host.outbox.sent) == 2
    assert not beside
    await host.send(message=b"X-Large: x\r\n" * 20_000 + mail(2))
    assert len(host.outbox.sent) == 3
    assert beside >= {"protocols.sending.vacation", "protocols.sending.notify"}
