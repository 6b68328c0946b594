"""SEARCH: every key, result forms, charsets, budgets, and the planner against a naive evaluation."""

from __future__ import annotations

import time
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.imap import searchkeys as k
from protocols.imap.columns import ViewColumns
from protocols.imap.commands.search import _Reader
from protocols.imap.searching import Plan, find_all, find_end
from protocols.imap.sentdate import midnight, parse_sent_day
from storage.errors import Corrupt, Unavailable
from storage.mime.headers import all_values
from storage.mime.structure import decode_structure
from storage.mime.text import decode_words, fold, header_text, search_text
from storage.model import SystemFlag, Uid, Wanted

from .selected import Selected, Stored, select

DAY = 86_400


def message(
    *, subject: str = "hello", sender: str = "ann@example.test", body: str = "some text", sent: str = ""
) -> bytes:
    field = f"Date: {sent}\r\n" if sent else ""
    head = f"From: {sender}\r\nTo: bob@example.test\r\nSubject: {subject}\r\n{field}"
    return f"{head}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n".encode()


FEB = midnight(date(2024, 2, 1))
MESSAGES = (
    Stored(
        10,
        message(subject="=?utf-8?Q?Gr=C3=BC=C3=9Fe?= aus Bonn", sent="Wed, 31 Jan 2024 23:59:59 -0800"),
        flags=SystemFlag.SEEN | SystemFlag.ANSWERED,
        modseq=3,
        internaldate=FEB - 1,
    ),
    Stored(
        20,
        message(sender="Carl <carl@example.test>", body="needle in the hay"),
        flags=SystemFlag.FLAGGED,
        keywords=frozenset({"$Work"}),
        modseq=8,
        internaldate=FEB,
    ),
    Stored(
        21,
        message(subject="NEEDLE", sent="Fri, 02 Feb 2024 00:00:01 +0000") + b"x" * 5000,
        flags=SystemFlag.DELETED | SystemFlag.SEEN,
        modseq=5,
        internaldate=FEB + DAY - 1,
    ),
    Stored(
        30,
        b"X-Empty:\r\nCc: dora@example.test\r\nBcc: eve@example.test\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Transfer-Encoding: base64\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        b"R3LDvMOfZSB1bmQgS8O8c3Nl\r\n--b\r\nContent-Type: image/png\r\n\r\npixels\r\n--b--\r\n",
        flags=SystemFlag.DRAFT,
        modseq=9,
        internaldate=FEB + DAY,
    ),
)


def mailbox(**facts: object) -> Selected:
    return select(MESSAGES, recent_from=30, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("ALL", "1 2 3 4"),
        ("1:2", "1 2"),
        ("2,4", "2 4"),
        ("*", "4"),
        ("UID 20:29", "2 3"),
        ("UID 1:5", ""),
        ("UID 30:*", "4"),
        ("ANSWERED", "1"),
        ("UNANSWERED", "2 3 4"),
        ("DELETED", "3"),
        ("UNDELETED", "1 2 4"),
        ("DRAFT", "4"),
        ("UNDRAFT", "1 2 3"),
        ("FLAGGED", "2"),
        ("UNFLAGGED", "1 3 4"),
        ("SEEN", "1 3"),
        ("UNSEEN", "2 4"),
        ("RECENT", "4"),
        ("OLD", "1 2 3"),
        ("NEW", "4"),
        ("KEYWORD $work", "2"),
        ("UNKEYWORD $Work", "1 3 4"),
        ("KEYWORD other", ""),
        ("LARGER 5000", "3"),
        ("SMALLER 5000", "1 2 4"),
        ("BEFORE 1-Feb-2024", "1"),
        ("ON 1-Feb-2024", "2 3"),
        ("SINCE 1-Feb-2024", "2 3 4"),
        ('SINCE "2-Feb-2024"', "4"),
        ("SENTBEFORE 1-Feb-2024", "1"),
        ("SENTON 31-Jan-2024", "1"),
        ("SENTON 2-Feb-2024", "3 4"),
        ("SENTSINCE 1-Feb-2024", "2 3 4"),
        ("FROM carl", "2"),
        ("FROM ANN", "1 3"),
        ("TO bob", "1 2 3"),
        ("CC dora", "4"),
        ("BCC eve", "4"),
        ("SUBJECT needle", "3"),
        ('SUBJECT ""', "1 2 3"),
        ('HEADER X-Empty ""', "4"),
        ('HEADER x-empty "a"', ""),
        ('HEADER Date ""', "1 3"),
        ("HEADER From carl@example", "2"),
        ("BODY needle", "2"),
        ('BODY "NEEDLE in"', "2"),
        ("BODY pixels", ""),
        ("TEXT needle", "2 3"),
        ("NOT TEXT needle", "1 4"),
        ("NOT NOT SEEN", "1 3"),
        ("OR SEEN FLAGGED", "1 2 3"),
        ("OR (SEEN ANSWERED) (FLAGGED)", "1 2"),
        ("OR SUBJECT needle BODY needle", "2 3"),
        ("SEEN NOT DELETED", "1"),
        ("(SEEN) (NOT DELETED) 1:4", "1"),
        ("OR OR FROM carl SUBJECT needle DRAFT", "2 3 4"),
        ("UNSEEN SUBJECT hello", "2"),
        ("CHARSET US-ASCII SUBJECT needle", "3"),
        ("$", ""),
    ],
)
async def test_keys(keys: str, expected: str) -> None:
    want = f"* SEARCH {expected}".rstrip() + "\r\n"
    assert await mailbox().text(b"SEARCH " + keys.encode()) == want.encode()


async def test_uid_search_answers_uids() -> None:
    assert await mailbox().text(b"UID SEARCH 1:3 UNDELETED") == b"* SEARCH 10 20\r\n"


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        (b"", "utf-8"),
        (b"CHARSET UTF-8 ", "utf-8"),
        (b"CHARSET iso-8859-1 ", "latin-1"),
        (b"CHARSET UTF-16 ", "utf-16"),
    ],
)
async def test_words_beyond_ascii_in_header_and_body(charset: bytes, codec: str) -> None:
    raw = "grüsse".encode(codec)
    literal = b"{%d}\r\n%b" % (len(raw), raw)
    assert await mailbox().text(b"SEARCH " + charset + b"SUBJECT " + literal) == b"* SEARCH 1\r\n"
    assert await mailbox().text(b"SEARCH " + charset + b"BODY " + literal) == b"* SEARCH 4\r\n"


@pytest.mark.parametrize("key", ["SUBJECT", "HEADER Subject", "TEXT"])
async def test_nobody_knows_where_a_field_was_folded(key: str) -> None:
    folded = Stored(7, message(subject="a field\r\n\tthat is   long"))
    for words in ("field that is long", "Field  That"):
        assert await select((folded,)).text(f'SEARCH {key} "{words}"'.encode()) == b"* SEARCH 1\r\n"
    assert await select((folded,)).text(b'SEARCH BODY "some  text"') == b"* SEARCH\r\n"


async def test_text_finds_attachments_and_embedded_messages_by_their_headers() -> None:
    """RFC 9051 §6.4.4: TEXT includes MIME header fields, BODY no header field at all."""
    mail = (
        b"Content-Type: multipart/mixed; boundary=m\r\n\r\n"
        b"--m\r\nContent-Type: image/png; name=beach.png\r\n\r\npixels\r\n"
        b"--m\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\tsubject\r\n\r\nwords\r\n--m--\r\n"
    )
    session = select((Stored(7, mail),))
    for words in (b"beach.png", b'"inner subject"', b"image/png"):
        assert await session.text(b"SEARCH TEXT " + words) == b"* SEARCH 1\r\n"
        assert await session.text(b"SEARCH BODY " + words) == b"* SEARCH\r\n"
    assert await session.text(b"SEARCH BODY words TEXT words") == b"* SEARCH 1\r\n"
    assert await session.text(b"SEARCH TEXT pixels") == b"* SEARCH\r\n"


async def test_delivery_reports_are_text() -> None:
    report = (
        b"Content-Type: multipart/report; boundary=r\r\n\r\n--r\r\n\r\nSorry.\r\n"
        b"--r\r\nContent-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822; lost@example.test\r\n"
        b"--r\r\nContent-Type: application/octet-stream\r\n\r\nhidden\r\n--r--\r\n"
    )
    for words, found in ((b"lost@example", b" 1"), (b"sorry", b" 1"), (b"hidden", b"")):
        assert await select((Stored(7, report),)).text(b"SEARCH BODY " + words) == b"* SEARCH%b\r\n" % found


@pytest.mark.parametrize("name", [b"X-UNKNOWN", b"base64", b"rot13", b"idna", b"zlib", b'""'])
async def test_unknown_charset_is_named_in_the_reply(name: bytes) -> None:
    outcome, data = await mailbox().run(b"SEARCH CHARSET " + name + b" TEXT x")
    assert (outcome.status, outcome.code, data) == (b"NO", b"BADCHARSET (US-ASCII UTF-8)", b"")


async def test_no_charset_once_utf8_is_accepted() -> None:
    session = mailbox()
    session.enabled.add(b"UTF8=ACCEPT")
    assert await session.is_bad(b"SEARCH CHARSET UTF-8 TEXT x")


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "NONSENSE",
        "SEEN ",
        "SEEN  ALL",
        "(SEEN",
        "SEEN)",
        "()",
        "OR SEEN",
        "NOT",
        "FROM",
        "HEADER From",
        "BEFORE yesterday",
        "SINCE 31-Feb-2024",
        "LARGER -1",
        "LARGER x",
        "YOUNGER 0",
        "UID x",
        "0",
        "9",
        "RETURN (BEST) ALL",
        "RETURN MIN ALL",
        "RETURN (NONE) ALL",
        "RETURN (MIN)",
        "MODSEQ x",
        'MODSEQ "/flags/x" some 1',
        "CHARSET utf-8",
        "TEXT {2}\r\n\xff\xfe",
        "CHARSET US-ASCII TEXT {1}\r\n\xe4",
        "NOT " * 200 + "SEEN",
        "(" * 200 + "SEEN" + ")" * 200,
        "SEEN " * 6000 + "SEEN",
    ],
)
async def test_what_breaks_the_grammar_is_bad(keys: str) -> None:
    assert await mailbox().is_bad(b"SEARCH " + keys.encode("latin-1"))


async def test_deepest_allowed_chain_is_evaluated() -> None:
    keys = b"OR SUBJECT zzz " * 140 + b"BODY needle"
    assert await mailbox().text(b"SEARCH " + keys) == b"* SEARCH 2\r\n"


async def test_younger_and_older() -> None:
    now = int(time.time())
    messages = [Stored(n, message(body=str(n)), internaldate=now - n * 1000) for n in range(1, 5)]
    session = select(messages)
    assert await session.text(b"SEARCH YOUNGER 2500") == b"* SEARCH 1 2\r\n"
    assert await session.text(b"SEARCH OLDER 2500") == b"* SEARCH 3 4\r\n"


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "keys", "expected"),
    [
        ("()", "ALL", " ALL 1:4"),
        ("(ALL)", "UNSEEN", " ALL 2,4"),
        ("(MIN)", "UNSEEN", " MIN 2"),
        ("(MAX)", "UNSEEN", " MAX 4"),
        ("(MIN MAX)", "UNSEEN", " MIN 2 MAX 4"),
        ("(COUNT)", "UNSEEN", " COUNT 2"),
        ("(MIN MAX COUNT ALL)", "UNSEEN", " MIN 2 MAX 4 ALL 2,4 COUNT 2"),
        ("(min)", "TEXT needle", " MIN 2"),
        ("(MAX)", "TEXT needle", " MAX 3"),
        ("(MIN MAX)", "NOT TEXT needle", " MIN 1 MAX 4"),
        ("(MIN MAX ALL COUNT)", "KEYWORD none", " COUNT 0"),
        ("(MIN)", "KEYWORD none", ""),
        ("(ALL)", "KEYWORD none", ""),
        ("(MIN)", "MODSEQ 4", " MIN 2 MODSEQ 8"),
        ("(ALL)", "MODSEQ 4", " ALL 2:4 MODSEQ 9"),
    ],
)
async def test_esearch(options: str, keys: str, expected: str) -> None:
    answer = await mailbox().text(f"SEARCH RETURN {options} {keys}".encode())
    assert answer == f'* ESEARCH (TAG "A1"){expected}\r\n'.encode()


async def test_uid_esearch_says_so() -> None:
    answer = await mailbox().text(b"UID SEARCH RETURN (ALL COUNT) 2:4")
    assert answer == b'* ESEARCH (TAG "A1") UID ALL 20:21,30 COUNT 3\r\n'


async def test_rev2_always_gets_esearch() -> None:
    session = mailbox()
    session.rev2 = True
    assert await session.text(b"SEARCH SEEN") == b'* ESEARCH (TAG "A1") ALL 1,3\r\n'


async def test_modseq_key_adds_the_highest_and_enables_condstore() -> None:
    session = mailbox()
    assert await session.text(b"SEARCH MODSEQ 4 UNDRAFT") == b"* SEARCH 2 3 (MODSEQ 8)\r\n"
    assert session.enabled == {b"CONDSTORE"}
    line = b'SEARCH MODSEQ "/flags/\\\\draft" all 9'
    assert await session.text(line) == b"* SEARCH 4 (MODSEQ 9)\r\n"
    assert await session.text(b"SEARCH MODSEQ 10") == b"* SEARCH\r\n"


async def test_saved_result_is_used_by_dollar() -> None:
    session = mailbox()
    assert await session.text(b"SEARCH RETURN (SAVE) UNSEEN") == b""
    assert session.view.saved_result == (20, 30)
    assert await session.text(b"SEARCH $ DRAFT") == b"* SEARCH 4\r\n"
    assert await session.text(b"UID SEARCH UID $") == b"* SEARCH 20 30\r\n"
    assert await session.text(b"FETCH $ UID") == b"* 2 FETCH (UID 20)\r\n* 4 FETCH (UID 30)\r\n"


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ("SAVE MIN", (20,)),
        ("SAVE MAX", (30,)),
        ("SAVE MIN MAX", (20, 30)),
        ("SAVE MIN COUNT", (20, 21, 30)),
        ("SAVE ALL", (20, 21, 30)),
    ],
)
async def test_what_is_saved_depends_on_the_other_options(options: str, saved: tuple[int, ...]) -> None:
    """RFC 5182 §2.1."""
    session = mailbox()
    await session.text(f"SEARCH RETURN ({options}) 2:4".encode())
    assert session.view.saved_result == saved


async def test_a_failed_search_empties_the_saved_result_and_a_bad_one_does_not() -> None:
    session = mailbox()
    await session.text(b"SEARCH RETURN (SAVE) ALL")
    assert await session.is_bad(b"SEARCH RETURN (SAVE) NONSENSE")
    assert len(session.view.saved_result) == 4
    await session.run(b"SEARCH RETURN (SAVE) CHARSET X-UNKNOWN ALL")
    assert session.view.saved_result == ()


async def test_expunged_messages_are_not_found_and_numbers_stay() -> None:
    session = mailbox()
    session.view.shared.apply_own((), (Uid(20),), session.view.shared.version, None)
    assert await session.text(b"SEARCH ALL") == b"* SEARCH 1 3 4\r\n"
    assert await session.text(b"SEARCH 2:3") == b"* SEARCH 3\r\n"
    assert await session.text(b"SEARCH TEXT needle") == b"* SEARCH 3\r\n"


# --- budgets and failures -------------------------------------------------------------------------


async def test_what_the_view_knows_costs_no_read() -> None:
    session = mailbox()
    await session.text(b"SEARCH OR (UNSEEN LARGER 10) (SINCE 1-Jan-2000 KEYWORD x) MODSEQ 1 UID 1:99 NOT NEW")
    assert session.mail.reads == []


async def test_headers_cost_one_read_per_thousand_candidates_and_no_body() -> None:
    session = select([Stored(n, message(subject=f"no {n}"), flags=SystemFlag(n % 2)) for n in range(1, 3001)])
    assert (await session.text(b"SEARCH SEEN SUBJECT 77")).startswith(b"* SEARCH 77 177 277 ")
    assert session.mail.reads == [(1000, Wanted.HEADER), (500, Wanted.HEADER)]
    assert session.bodies.opened == []


async def test_bodies_are_opened_only_where_nothing_else_decides() -> None:
    session = mailbox()
    await session.text(b"SEARCH UNDELETED OR FROM ann TEXT needle")
    assert session.mail.reads == [(3, Wanted.HEADER | Wanted.STRUCTURE)]
    assert session.bodies.opened == [20, 30]


async def test_min_stops_at_the_first_match() -> None:
    session = select([Stored(n, message(body=f"body {n}")) for n in range(1, 51)])
    assert b" MIN 3\r\n" in await session.text(b'SEARCH RETURN (MIN) BODY "body 3"')
    assert session.bodies.opened == [1, 2, 3]
    session.bodies.opened.clear()
    assert b" MAX 39\r\n" in await session.text(b'SEARCH RETURN (MAX) BODY "body 3"')
    assert session.bodies.opened == list(range(50, 38, -1))


async def test_large_messages_are_searched_without_reading_attachments() -> None:
    big = b"A" * 76 + b"\r\n"
    content = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nneedle here\r\n"
        b"--b\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + big * 30_000
        + b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: =?utf-8?b?aW5uZXI=?=\r\n\r\ntail\r\n--b--\r\n"
    )
    session = select([Stored(1, content, prefix=b"X: y\r\n")])
    for word in (b"BODY needle", b"TEXT inner", b"BODY tail"):
        assert await session.text(b"SEARCH " + word) == b"* SEARCH 1\r\n"
    assert await session.text(b"SEARCH BODY AAAAAA") == b"* SEARCH\r\n"
    assert sum(session.bodies.served) < 1000


async def test_a_body_out_of_reach_fails_the_search_and_a_damaged_one_does_not_match() -> None:
    messages = [Stored(1, message(body="needle")), Stored(2, message(body="needle 2"))]
    session = select(messages)
    await session.text(b"SEARCH RETURN (SAVE) ALL")
    messages[0].error = Unavailable("object store away")
    with pytest.raises(Unavailable):
        await session.run(b"SEARCH RETURN (SAVE) BODY needle")
    assert session.view.saved_result == ()
    messages[0].error = Corrupt("hash differs")
    assert await session.text(b"SEARCH BODY needle") == b"* SEARCH 2\r\n"


# --- the planner is the naive evaluation ----------------------------------------------------------

WORDS = ("needle", "hello", "Grüße", "zzz", "")
leaves = st.one_of(
    st.sampled_from([*SystemFlag][:5]).map(k.HasFlag),
    st.sampled_from(["$work", "other"]).map(k.HasKeyword),
    st.just(k.IsRecent()),
    st.sampled_from([300, 5000]).map(k.SizeAbove),
    st.sampled_from([300, 5000]).map(k.SizeBelow),
    st.builds(k.InternalDate, st.sampled_from(k.When), st.sampled_from([date(2024, 2, 1), date(2024, 2, 2)])),
    st.builds(k.SentDate, st.sampled_from(k.When), st.sampled_from([date(2024, 1, 31), date(2024, 2, 2)])),
    st.integers(1, 10).map(k.ModSeqFrom),
    st.integers(1, 3 * DAY).map(k.Younger),
    st.builds(k.HeaderHas, st.sampled_from(["subject", "from", "x-empty"]), st.sampled_from(WORDS)),
    st.sampled_from(WORDS).map(k.BodyHas),
    st.sampled_from(WORDS).map(k.TextHas),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(k.Not),
        st.builds(k.Or, inner, inner),
        st.lists(inner, max_size=4).map(lambda keys: k.And(tuple(keys))),
    ),
    max_leaves=12,
)
NOW = FEB + 2 * DAY


def naive(key: k.Key, stored: Stored) -> bool:
    """Straight from the RFC's words, over the whole message."""
    header = stored.described.header
    match key:
        case k.And(keys):
            return all(naive(inner, stored) for inner in keys)
        case k.Or(left, right):
            return naive(left, stored) or naive(right, stored)
        case k.Not(inner):
            return not naive(inner, stored)
        case k.HasFlag(flag):
            return bool(stored.flags & flag)
        case k.HasKeyword(word):
            return word.lower() in {name.lower() for name in stored.keywords}
        case k.IsRecent():
            return stored.uid >= 30
        case k.SizeAbove(size):
            return len(stored.whole) > size
        case k.SizeBelow(size):
            return len(stored.whole) < size
        case k.ModSeqFrom(modseq):
            return stored.modseq >= modseq
        case k.Younger(seconds):
            return stored.internaldate > NOW - seconds
        case k.InternalDate(when, day):
            return compare(when, stored.internaldate // DAY, midnight(day) // DAY)
        case k.SentDate(when, day):
            dates = all_values(header, b"date")
            sent = parse_sent_day(dates[0].decode()) if dates else None
            return compare(
                when, (midnight(sent) if sent else stored.internaldate) // DAY, midnight(day) // DAY
            )
        case k.HeaderHas(name, text):
            return any(fold(text) in fold(decode_words(v)) for v in all_values(header, name.encode()))
        case k.BodyHas(text):
            return body_has(stored, text)
        case k.TextHas(text):
            return (
                fold(text) in fold(header_text(header)) or body_has(stored, text) or parts_have(stored, text)
            )
    raise AssertionError(key)


def compare(when: k.When, value: int, wanted: int) -> bool:
    return {k.When.BEFORE: value < wanted, k.When.ON: value == wanted, k.When.SINCE: value >= wanted}[when]


def body_has(stored: Stored, text: str) -> bool:
    texts = search_text(decode_structure(stored.described.structure), stored.content, 10**9)
    return not text or any(fold(text) in fold(part) for part in texts)


def parts_have(stored: Stored, text: str) -> bool:
    """No message of this mailbox has parts within parts."""
    parts = decode_structure(stored.described.structure).children
    headers = (stored.content[part.header_start : part.body_start] for part in parts)
    return any(fold(text) in fold(header_text(header)) for header in headers)


@settings(max_examples=150, deadline=None)
@given(key=trees)
async def test_planner_equals_the_naive_evaluation(key: k.Key) -> None:
    session = mailbox()
    columns = ViewColumns(session.view)
    expected = [position for position, stored in enumerate(MESSAGES) if naive(key, stored)]
    plan, reader = Plan(key, columns, NOW), _Reader(session, columns)  # type: ignore[arg-type]
    assert await find_all(plan, reader) == expected
    assert await find_end(plan, reader, last=False) == (expected[0] if expected else None)
    assert await find_end(plan, reader, last=True) == (expected[-1] if expected else None)


# --- dates in mail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "day"),
    [
        ("Mon, 7 Feb 1994 21:52:25 -0800 (PST)", date(1994, 2, 7)),
        ("7 Feb 1994 21:52 PST", date(1994, 2, 7)),
        ("07-FEB-94 21:52:25", date(1994, 2, 7)),
        ("Monday, 07-Feb-49 21:52:25 GMT", date(2049, 2, 7)),
        ("Fri, 1 Jan 102 00:00:00 +0000", date(2002, 1, 1)),
        ("Thu Feb  3 10:00:00 2005", date(2005, 2, 3)),
        ("Thu Feb  3 10:00:00 MET 2005", date(2005, 2, 3)),
        ("February 3, 2005", date(2005, 2, 3)),
        ("2005-02-03T10:00:00Z", date(2005, 2, 3)),
        ("Thu, 3 February 2005", date(2005, 2, 3)),
        ("(comment 1 Jan 1999) 3 Feb 2005", date(2005, 2, 3)),
        ("Thu, 31 Feb 2005 10:00:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_sent_day(field: str, day: date | None) -> None:
    assert parse_sent_day(field) == day


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_sent_day_never_raises(field: str) -> None:
    assert isinstance(parse_sent_day(field), date | None)
