"""Who is answered, and in whose name: the rules, one by one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from protocols.sending.answering import RULES, Question, author_of, why_no_answer
from protocols.sieve.outcome import Rule as Place
from protocols.sieve.outcome import Vacation

from .letters import ANN, ANNIE, message, occasion

FORWARDED = "ann@elsewhere.test"


def question(fields: dict[str, str], *, addresses: tuple[str, ...] = (), **envelope: Any) -> Question:
    vacation = Vacation(Place("main", 1), "Away.", 60, addresses=addresses)
    return Question(occasion(message(**fields), **envelope), vacation)


ANSWERED: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    ({"Auto_Submitted": "no"}, {}),
    ({"Auto_Submitted": "No (a person)"}, {}),
    ({"Auto_Submitted": "no; why=person"}, {}),
    ({"Precedence": "first-class"}, {}),
    ({"X_Auto_Response_Suppress": "DR, NDR, RN, NRN"}, {}),
    ({"X_Spam_Flag": "NO"}, {}),
    ({"X_Spam_Status": "No, score=-2.0 required=5.0"}, {}),
    ({"X_Virus_Status": "Clean"}, {}),
    ({"Content_Type": "multipart/mixed; boundary=report"}, {}),
    ({"Listing": "x", "X_List": "x"}, {}),
    ({"To": "x@away.test", "Cc": "ANN@Example.Test"}, {}),
    ({"To": "", "Bcc": ANN}, {}),
    ({"To": "", "Resent_To": ANNIE}, {}),
    ({"To": "", "Resent_Cc": ANNIE}, {}),
    ({"To": "", "Resent_Bcc": ANNIE}, {}),
    ({"To": "x@away.test, Team: y@away.test, ann+lists@example.test;"}, {}),
    ({"To": FORWARDED}, {"addresses": ("nonsense", FORWARDED.upper())}),
    ({"From": ""}, {}),
    ({}, {"sender": "bob+request@away.test"}),
    ({}, {"sender": "prequest@away.test"}),
    ({}, {"sender": "noreplyman@away.test"}),
    ({}, {"sender": "jürgen@büro.test"}),
]


@pytest.mark.parametrize(("fields", "rest"), ANSWERED)
def test_answered(fields: dict[str, str], rest: dict[str, Any]) -> None:
    assert why_no_answer(question(fields, **rest)) == ""


UNANSWERED: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("null path", {}, {"sender": ""}),
    ("no address", {}, {"sender": "bob"}),
    ("no address", {}, {"sender": "bob@a,b"}),
    ("no address", {}, {"sender": "a@b>,<c@d.test"}),
    ("account itself", {}, {"sender": ANN}),
    ("account itself", {}, {"sender": "Annie+x@example.test"}),
    ("account itself", {}, {"sender": FORWARDED, "addresses": (FORWARDED,)}),
    *(
        ("machine", {}, {"sender": f"{local}@away.test"})
        for local in (
            *("MAILER-DAEMON", "Listserv", "majordomo", "owner-list", "list-request", "list-owner"),
            *("list-bounces", "bounces", "bounce-17", "bounces+ann=example.test", "bounce"),
            *("noreply", "no-reply", "No_Reply", "no.reply", "donotreply", "do-not-reply", "noreply-17"),
            *("security-noreply", "news.no-reply+ann"),
        )
    ),
    ("machine", {"From": "Shop <noreply@shop.test>"}, {}),
    ("machine", {"From": "MAILER-DAEMON@away.test"}, {}),
    ("automatically", {"Auto_Submitted": "auto-generated"}, {}),
    ("automatically", {"Auto_Submitted": "auto-replied (vacation)"}, {}),
    ("automatically", {"Auto_Submitted": "auto-notified; owner-email=x"}, {}),
    ("automatically", {"Auto_Submitted": "Nobody"}, {}),
    ("automatically", {"Auto_Submitted": "(no)"}, {}),
    ("to many", {"Precedence": "bulk"}, {}),
    ("to many", {"Precedence": "List"}, {}),
    ("to many", {"Precedence": "junk (really)"}, {}),
    *(
        ("mailing list", {name: "x"}, {})
        for name in (
            *("List_Id", "List_Help", "List_Subscribe", "List_Unsubscribe", "List_Post", "List_Owner"),
            *("List_Archive", "list_anything", "Mailing_List", "X_Mailing_List"),
        )
    ),
    ("no automatic answers", {"X_Auto_Response_Suppress": "All"}, {}),
    ("no automatic answers", {"X_Auto_Response_Suppress": "DR, OOF , RN"}, {}),
    ("no automatic answers", {"X_Auto_Response_Suppress": "AutoReply"}, {}),
    ("report", {"Content_Type": "multipart/report; report-type=delivery-status; boundary=b"}, {}),
    ("spam", {"X_Spam_Flag": "YES"}, {}),
    ("spam", {"X_Spam_Status": "Yes, score=7.5 required=5.0"}, {}),
    ("infected", {"X_Virus_Status": "Yes"}, {}),
    ("recipients", {"To": "x@away.test"}, {}),
    ("recipients", {"To": ""}, {}),
    ("recipients", {"To": "ann@example.test.evil.test, xann@example.test, example.test"}, {}),
    ("recipients", {"To": '"ann@example.test" <x@away.test>'}, {}),
    ("recipients", {"To": FORWARDED}, {"addresses": ("other@elsewhere.test",)}),
]


@pytest.mark.parametrize(("why", "fields", "rest"), UNANSWERED)
def test_unanswered(why: str, fields: dict[str, str], rest: dict[str, Any]) -> None:
    assert why in why_no_answer(question(fields, **rest))


def test_every_rule_speaks_against_something() -> None:
    said = {why_no_answer(question(fields, **rest)) for _, fields, rest in UNANSWERED}
    assert said == {rule.why for rule in RULES}


def test_a_second_field_of_a_name_counts_too() -> None:
    data = b"Auto-Submitted: no\r\nAuto-Submitted: auto-generated\r\n" + message()
    asked = Question(occasion(data), Vacation(Place("main", 1), "Away.", 60))
    assert "automatically" in why_no_answer(asked)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ("", ANNIE)),
        ("annie@example.test", ("", ANNIE)),
        ("Ann Cook <ANN@example.test>", ("Ann Cook", "ANN@example.test")),
        ('"Cook, Änn" <ann+x@example.test>', ("Cook, Änn", "ann+x@example.test")),
        ("=?utf-8?q?=C3=84nn?= <ann@example.test>", ("Änn", ANN)),
    ],
)
def test_whose_name_an_answer_has(wanted: str, expected: tuple[str, str]) -> None:
    found = author_of(occasion(), wanted, ANNIE)
    assert (found.name, found.address) == expected
    assert not found.notes


FOREIGN = ("eve@example.test", "ann@away.test", "Boss <boss@example.test>", "x", "ann@example.test, c@d")


@pytest.mark.parametrize("wanted", FOREIGN)
def test_nobody_answers_in_the_name_of_others(wanted: str) -> None:
    found = author_of(occasion(), wanted, "")
    assert (found.name, found.address) == ("", ANN)
    assert len(found.notes) == 1


def test_who_is_met_under_a_foreign_address_answers_as_the_account() -> None:
    asked = question({"To": FORWARDED}, addresses=(FORWARDED,))
    assert asked.met == FORWARDED
    assert author_of(asked.occasion, "", asked.met).address == ANN


LARGE = 480_000
HOSTILE = {
    "fields": b"a:\r\n" * (LARGE // 4),
    "recipients": b"To: a@b.test\r\n" * (LARGE // 14),
    "broken recipients": b'To: ((((("\\,;:<<>@@@,,\r\n' * (LARGE // 24),
    "comments": b"To: " + b"(" * LARGE + b"\r\n",
    "authors": b"From: noreplyx@b.test\r\n" * (LARGE // 23),
    "a long author": b"From: " + b"no-" * (LARGE // 3) + b"@b.test\r\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_large_header_is_read_in_linear_time(what: str) -> None:
    data = HOSTILE[what] + message()
    asked = Question(occasion(data), Vacation(Place("main", 1), "Away.", 60))
    started = time.process_time()
    why_no_answer(asked)
    assert time.process_time() - started < 10.0  # some tenths of a second; minutes if it were quadratic
