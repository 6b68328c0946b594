"""Messages of any octets are answered and notified of with messages that any server takes, or not at all."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.sending import notify, vacation
from protocols.sending.answering import Question, author_of, why_no_answer
from protocols.sending.entity import mime_entity, text_entity
from protocols.sending.mailto import parse_mailto
from protocols.sieve.fields import Fields
from protocols.sieve.outcome import Notify, Rule, Vacation

from .letters import BOB, check_header, check_octets, message, occasion

RULE = Rule("main", 1)
NAMES = st.sampled_from(
    [
        b"From",
        b"To",
        b"Subject",
        b"Message-ID",
        b"References",
        b"In-Reply-To",
        b"Date",
        b"Auto-Submitted",
        b"X",
    ]
)
VALUES = st.binary(max_size=60) | st.text('a<>@.,;:"\\()=?\r\n\t\0ü ', max_size=60).map(str.encode)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
TEXTS = st.text(max_size=80) | st.text('a<>@.,;:"\\()=?\r\n\t\0ü ', max_size=80)


def mail(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields) + message()


def check(octets: list[bytes]) -> None:
    whole = b"".join(octets)
    check_octets(whole)
    check_header(whole[: whole.index(b"\r\n\r\n") + 2])


@settings(max_examples=200, deadline=None)
@given(FIELDS, TEXTS, TEXTS, st.booleans(), st.sampled_from([BOB, '"b o"@x.test', "ü@ü.test"]) | TEXTS)
@example([(b"Subject", b"=?utf-8?q?=0D=0ABcc:_x?="), (b"Message-ID", b"<" + b"x" * 3000)], "", "", False, BOB)
def test_answers(
    fields: list[tuple[bytes, bytes]], reason: str, subject: str, is_mime: bool, sender: str
) -> None:
    action = Vacation(RULE, reason, 60, subject=subject, sender=subject, is_mime=is_mime)
    asked = Question(occasion(mail(fields), sender=sender), action)
    if why_no_answer(asked) and sender != BOB:
        return
    author = author_of(asked.occasion, action.sender, asked.met or "")
    assert asked.occasion.is_own(author.address)
    entity = mime_entity(reason) if is_mime else text_entity(reason)
    check(vacation.compose(asked, author, entity).octets)


@settings(max_examples=200, deadline=None)
@given(FIELDS, TEXTS, TEXTS)
@example([], "", "a@b.test?body=%0D%0A.%0D%0A&subject=%0D%0ABcc:x&comments=%00%FF%0a")
def test_notifications(fields: list[tuple[bytes, bytes]], words: str, uri: str) -> None:
    target = parse_mailto(f"mailto:pager@phone.test?{uri}")
    assert target is not None
    came = occasion(mail(fields))
    action = Notify(RULE, "mailto:x", words, importance=1)
    author = author_of(came, words, came.recipient)
    letter = notify.compose(came, Fields(came.header), notify.Notice(action, target, 0), author)
    check(letter.octets)
