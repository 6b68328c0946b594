"""Tokens of commands: tables of bytes and values, and bytes of all sorts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.imap import mutf7
from protocols.imap.grammar import Cursor, ParseError
from protocols.imap.seqset import SAVED, SeqSet, UidSet
from storage.model import Flags, SystemFlag

GOOD = [
    ("atom", b"abc", b"abc"),
    ("keyword", b"Body.Peek", b"BODY.PEEK"),
    ("astring", b"a]b", b"a]b"),
    ("astring", rb'"a \"b\" \\c"', rb'a "b" \c'),
    ("astring", b"{3}\r\na\r\n", b"a\r\n"),
    ("astring", b"{3+}\r\nabc", b"abc"),
    ("string", b"~{2}\r\n\x00\xff", b"\x00\xff"),
    ("string", b'""', b""),
    ("nstring", b"NIL", None),
    ("nstring", b'"NIL"', b"NIL"),
    ("number", b"4294967295", 4294967295),
    ("number64", b"9223372036854775807", 2**63 - 1),
    ("mailbox", b"inBox", "INBOX"),
    ("mailbox", b'"inbox/sub"', "INBOX/sub"),
    ("mailbox", b"inboxes", "inboxes"),
    ("mailbox", b"Entw&APw-rfe", "Entwürfe"),
    ("mailbox", b'"R&-D"', "R&D"),
    ("list_mailbox", b"%/*", "%/*"),
    ("list_mailbox", b'"a b%"', "a b%"),
    ("flag_list", b"()", Flags()),
    ("flag_list", rb"(\Seen \recent $Label)", Flags(SystemFlag.SEEN, frozenset({"$Label"}))),
    ("flags", rb"\Deleted \Draft", Flags(SystemFlag.DELETED | SystemFlag.DRAFT)),
    ("flags", b"(a A b)", Flags(SystemFlag.NONE, frozenset({"a", "b"}))),
    ("date", b"1-Feb-1994", date(1994, 2, 1)),
    ("date", b'"29-feb-2024"', date(2024, 2, 29)),
    ("datetime", b'" 1-Jan-1970 00:00:00 +0000"', datetime(1970, 1, 1, tzinfo=UTC)),
    (
        "datetime",
        b'"17-Jul-1996 02:44:25 -0730"',
        datetime(1996, 7, 17, 2, 44, 25, tzinfo=timezone(-timedelta(hours=7, minutes=30))),
    ),
    ("seqset", b"1,3:5,*", SeqSet(((1, 1), (3, 5), (0, 0)))),
    ("uidset", b"*:4", UidSet(((0, 4),))),
    ("uidset", b"$", SAVED),
]


@pytest.mark.parametrize(("method", "data", "value"), GOOD)
@pytest.mark.parametrize("tail", [b"", b" (rest", b")"])
def test_token_is_taken_and_nothing_behind_it(method: str, data: bytes, value: object, tail: bytes) -> None:
    if rb"\Deleted" in data:  # flags without parentheses go on after a space
        tail = b")"
    cursor = Cursor(data + tail)
    assert getattr(cursor, method)() == value
    assert cursor.data[cursor.position :] == tail


BAD = [
    ("atom", b""),
    ("atom", b"("),
    ("string", b"abc"),
    ("string", b'"abc'),
    ("string", b'"a\r\nb"'),
    ("string", b'"\xe9"'),
    ("string", rb'"\a"'),
    ("string", b"{5}\r\nabc"),
    ("number", b"-1"),
    ("number", b"4294967296"),
    ("number64", b"9223372036854775808"),
    ("mailbox", b"\xff"),
    ("mailbox", b'"a&b"'),
    ("mailbox", b"&AGE-"),  # "a" must not be encoded
    ("flag_list", rb"(\Unknown)"),
    ("flag_list", b"(NIL)"),
    ("flag_list", b"(a"),
    ("flag_list", b"(" + b"k" * 101 + b")"),
    ("flag_list", b"(" + b" ".join(b"k%d" % i for i in range(65)) + b")"),
    ("date", b"31-Feb-2020"),
    ("date", b"1-Foo-2020"),
    ("datetime", b'"32-Jan-2020 00:00:00 +0000"'),
    ("datetime", b'"01-Jan-2020 00:00:00 +9900"'),
    ("datetime", b'"01-Jan-0001 00:00:00 +1400"'),
    ("seqset", b"0"),
    ("seqset", b"1:"),
    ("seqset", b"1,,2"),
    ("uidset", b"4294967296"),
    ("seqset", b",".join([b"1"] * 20_001)),
]


@pytest.mark.parametrize(("method", "data"), BAD)
def test_broken_token_is_a_parse_error(method: str, data: bytes) -> None:
    with pytest.raises(ParseError):
        getattr(Cursor(data), method)()


METHODS = sorted({method for method, _, _ in GOOD})


@settings(max_examples=200)
@given(method=st.sampled_from(METHODS), data=st.binary(max_size=40), utf8=st.booleans())
def test_any_bytes_parse_or_raise_parse_error(method: str, data: bytes, *, utf8: bool) -> None:
    cursor = Cursor(data, utf8=utf8)
    try:
        getattr(cursor, method)()
    except ParseError:
        return
    assert 0 < cursor.position <= len(data)


@settings(max_examples=200)
@given(st.text(max_size=30, alphabet=st.characters(exclude_categories=["Cs"])))
def test_mutf7_round_trip(name: str) -> None:
    assert mutf7.decode(mutf7.encode(name)) == name


def test_mutf7_examples_of_rfc_3501() -> None:
    assert mutf7.encode("~peter/mail/台北/日本語") == b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"


def test_utf8_names_after_enable() -> None:
    assert Cursor('"Entwürfe &AOk-"'.encode(), utf8=True).mailbox() == "Entwürfe &AOk-"
    with pytest.raises(ParseError):
        Cursor(b'"\xff"', utf8=True).mailbox()


def test_errors_say_where() -> None:
    cursor = Cursor(b" INBOX (")
    cursor.space()
    cursor.mailbox()
    with pytest.raises(ParseError, match="position 7"):
        cursor.end()
