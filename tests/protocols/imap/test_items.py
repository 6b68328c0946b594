"""The parsers of FETCH and SEARCH against arbitrary bytes, and rendering of what mail may hold."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import PeerError
from protocols.imap import render
from protocols.imap.bodyparts import select_fields
from protocols.imap.commands.fetch import Fetch, parse_fetch
from protocols.imap.commands.search import Search, parse_search
from protocols.imap.grammar import Cursor, ParseError
from protocols.imap.items import BinaryItem, BodyItem, parse_items
from protocols.imap.registry import ParseContext
from storage.mime.envelope import Address, Envelope, decode_envelope
from storage.mime.headers import cut_fields, split_header
from storage.mime.message import describe
from storage.mime.sections import Section
from storage.mime.structure import decode_structure

from .selected import Stored, select

CONTEXTS = [ParseContext(uid, frozenset()) for uid in (False, True)]
FETCH_WORDS = (
    b" 1:* 1,2:4 $ ( ) BODY BODY.PEEK [ ] HEADER HEADER.FIELDS HEADER.FIELDS.NOT TEXT MIME .1 1.2 . <0.1> < "
    b"> FLAGS ALL FAST FULL ENVELOPE BODYSTRUCTURE BINARY BINARY.SIZE RFC822 UID MODSEQ (CHANGEDSINCE 5) "
    b'"quoted" {3}\r\nabc {99}\r\nx'
).split(b" ")
SEARCH_WORDS = (
    b" ALL OR NOT ( ) SEEN FROM HEADER KEYWORD SINCE 1-Feb-1994 LARGER 5 UID 1:* $ TEXT abc CHARSET UTF-8 "
    b'MODSEQ "/flags/x" all RETURN (MIN MAX) () YOUNGER BODY "q" {2}\r\n\xff\xfe {1}\r\nx'
).split(b" ")


def lines(words: list[bytes]) -> st.SearchStrategy[bytes]:
    joined = st.lists(st.sampled_from([*words, b" ", b""]), max_size=14)
    return st.one_of(
        st.binary(max_size=80),
        joined.map(b" ".join),
        joined.map(b"".join),
        joined.map(lambda w: b" " + b" ".join(w)),
    )


@settings(max_examples=200, deadline=None)
@given(line=lines(FETCH_WORDS), context=st.sampled_from(CONTEXTS))
def test_fetch_arguments_are_a_value_or_a_parse_error(line: bytes, context: ParseContext) -> None:
    with contextlib.suppress(ParseError):
        assert isinstance(parse_fetch(Cursor(line), context), Fetch)


@settings(max_examples=200, deadline=None)
@given(line=lines(SEARCH_WORDS), context=st.sampled_from(CONTEXTS))
def test_search_arguments_are_a_value_or_a_parse_error(line: bytes, context: ParseContext) -> None:
    with contextlib.suppress(ParseError):
        assert isinstance(parse_search(Cursor(line), context), Search)


@settings(max_examples=150, deadline=None)
@given(line=lines(FETCH_WORDS + SEARCH_WORDS), name=st.sampled_from([b"FETCH", b"UID FETCH", b"SEARCH"]))
async def test_any_command_ends_with_an_outcome_or_is_bad(line: bytes, name: bytes) -> None:
    session = select([Stored(3, b"Subject: x\r\n\r\ny"), Stored(5, b"--b\r\n\0")])
    with contextlib.suppress(PeerError):
        outcome, _data = await session.run(name + b" " + line)
        assert outcome.status in (b"OK", b"NO")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"()",
        b"(FLAGS",
        b"(FLAGS  UID)",
        b"FLAGS UID",
        b"NONSENSE",
        b"BODY.PEEK",
        b"BODY[",
        b"BODY[MIME]",
        b"BODY[1.]",
        b"BODY[1.2.3.NONSENSE]",
        b"BODY[0]",
        b"BODY[1.0]",
        b"BODY[.TEXT]",
        b"BODY[1TEXT]",
        b"BODY[HEADER.FIELDS]",
        b"BODY[HEADER.FIELDS ()]",
        b"BODY[HEADER.FIELDS (a]",
        b"BODY[]<1>",
        b"BODY[]<0.0>",
        b"BODY[]<a.b>",
        b"BODY[" + b"1." * 100 + b"1]",
        b"BINARY[TEXT]",
        b"BINARY[1.TEXT]",
        b"BINARY.SIZE[1]<0.1>",
        b"RFC822[1]",
        b"(" + b"FLAGS " * 200 + b"UID)",
    ],
)
def test_wrong_items_are_refused(text: bytes) -> None:
    cursor = Cursor(text)
    with pytest.raises(ParseError):
        parse_items(cursor)
        cursor.end()


def test_sections_are_read_and_echoed() -> None:
    (item,) = parse_items(Cursor(b'body.peek[4.1.header.fields (From "Sub ject")]<5.10>'))
    section = Section((4, 1), "HEADER.FIELDS", (b"from", b"sub ject"))
    label = b'BODY[4.1.HEADER.FIELDS (From "Sub ject")]<5>'
    assert item == BodyItem(label, section, (5, 10), peek=True)
    assert parse_items(Cursor(b"BINARY.PEEK[1.2]")) == (BinaryItem(b"BINARY[1.2]", (1, 2), peek=True),)


def test_no_addresses_are_nil_and_groups_keep_their_marks() -> None:
    group = [Address(None, None, b"team", None), Address(None, None, None, None)]
    shown = render.envelope(Envelope(to=group))
    assert shown == b'(NIL NIL NIL NIL NIL ((NIL NIL "team" NIL)(NIL NIL NIL NIL)) NIL NIL NIL NIL)'


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, b'" 1-Jan-1970 00:00:00 +0000"'),
        (951_868_799, b'"29-Feb-2000 23:59:59 +0000"'),
        (-1, b'"31-Dec-1969 23:59:59 +0000"'),
        (10**14, b'"31-Dec-9999 09:46:40 +0000"'),
        (-(10**14), b'" 1-Jan-0001 14:13:20 +0000"'),
    ],
)
def test_internal_dates(seconds: int, shown: bytes) -> None:
    assert render.internaldate(seconds) == shown


# A reader of IMAP values: strings by their announced length, then balanced parentheses.
TOKEN = re.compile(
    rb'\{(\d+)\}\r\n|"(?:[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x5b\x5d-\x7f]|\\["\\])*"|\(|\)|NIL|\d+| '
)


def read_value(data: bytes) -> int:
    """The depth never falls below zero, everything is a token; how many tokens."""
    at = depth = count = 0
    while at < len(data):
        match = TOKEN.match(data, at)
        assert match, data[at : at + 40]
        at = match.end() + int(match[1] or 0)
        depth += {b"(": 1, b")": -1}.get(match[0], 0)
        assert depth >= 0
        count += 1
    assert depth == 0
    return count


FRAGMENTS = (
    b'Subject: a\0\xff"\\\r\n',
    b'From: a <b@c>, "x\\"y" <d@e>, g: h@i;\r\n',
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n",
    b"Content-Type: message/rfc822\r\n\r\n",
    b'Content-Type: text/\xe4; charset="a\0b"\r\n',
    b'Content-Disposition: attachment; filename="\xe4\\""\r\n',
    b"Content-Language: de, en\r\n",
    b"\r\n",
    b"--b\r\n",
    b"--b--\r\n",
    b"text\r\n",
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=20)), max_size=14).map(b"".join))
def test_any_message_renders_to_well_formed_values(content: bytes) -> None:
    described = describe(content)
    envelope = render.envelope(decode_envelope(described.envelope))
    structure = decode_structure(described.structure)
    for value in (envelope, render.body(structure, extended=True), render.body(structure, extended=False)):
        assert read_value(value) > 1
        assert b"\0" not in value


NAMES = (b"subject", b"from", b"content-type", b"x", b"bad name", b"a:b", b"\xe4", b".*", b"")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *FRAGMENTS,
                    b"Subject : x\r\n",
                    b" folded\n",
                    b"\t\r\n",
                    b"X:\n",
                    b"subject",
                    b"X-Subject: y\n",
                ]
            ),
            st.binary(max_size=20),
        ),
        max_size=10,
    ).map(b"".join),
    st.lists(st.sampled_from(NAMES), max_size=4).map(tuple),
)
def test_fields_are_selected_as_by_the_scanner(data: bytes, names: tuple[bytes, ...]) -> None:
    header = data[: split_header(data)]
    expected = cut_fields(header, names, inverted=False)
    assert select_fields(header, Section((), "HEADER.FIELDS", names)) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=20)), max_size=10).map(b"".join),
    st.sampled_from([b"", b"Return-Path: <>\r\n"]),
    st.integers(0, 60),
    st.integers(1, 60),
)
async def test_any_message_is_returned_verbatim_and_in_pieces(
    content: bytes, prefix: bytes, offset: int, count: int
) -> None:
    session = select([Stored(1, content, prefix=prefix)])
    whole = prefix + content
    literal = b"{%d}\r\n%b" % (len(whole), whole) if whole else b'""'
    assert await session.text(b"FETCH 1 BODY.PEEK[]") == b"* 1 FETCH (BODY[] %b)\r\n" % literal
    piece = whole[offset : offset + count]
    shown = b"{%d}\r\n%b" % (len(piece), piece) if piece else b'""'
    answer = await session.text(b"FETCH 1 BODY.PEEK[]<%d.%d>" % (offset, count))
    assert answer == b"* 1 FETCH (BODY[]<%d> %b)\r\n" % (offset, shown)
    header, text = [
        literal_of(await session.text(b"FETCH 1 BODY.PEEK[%b]" % name)) for name in (b"HEADER", b"TEXT")
    ]
    assert header + text == whole


def literal_of(answer: bytes) -> bytes:
    """The one value of a FETCH response of one body section."""
    if answer.endswith(b'] "")\r\n'):
        return b""
    return answer.partition(b"}\r\n")[2].removesuffix(b")\r\n")
