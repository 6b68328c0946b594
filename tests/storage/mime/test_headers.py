"""Header blocks: splitting, walking, picking and cutting fields; parameters."""

from __future__ import annotations

import pytest

from storage.mime.headers import (
    MAX_PARAMETERS,
    all_values,
    cut_fields,
    first_value,
    iter_fields,
    parameter,
    parse_parameters,
    split_header,
    unfold,
)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"", b""),
        (b"A: b", b""),
        (b"A: b\r\n", b""),
        (b"A: b\r\n\r\n", b""),
        (b"A: b\r\n\r\nbody", b"body"),
        (b"A: b\n\nbody", b"body"),
        (b"A: b\r\n\nbody", b"body"),
        (b"A: b\n\r\nbody", b"body"),
        (b"\r\nbody", b"body"),
        (b"\nbody", b"body"),
        (b"A: b\r\n \r\nC: d\r\n\r\nbody", b"body"),  # blanks are a continuation, not an empty line
        (b"A: b\r\r\n\r\nbody", b"body"),
        (b"A: b\r\rC: d\r\r", b""),  # CR alone ends no line
        (b"A: b\r\n\r\none\r\n\r\ntwo", b"one\r\n\r\ntwo"),
    ],
)
def test_split_header(data: bytes, body: bytes) -> None:
    assert data[split_header(data) :] == body


def test_fields_keep_their_spelling_and_offsets() -> None:
    header = b"Subject : a\r\n  b\r\nX-EMPTY:\r\nto:x\n\r\nnot: this\r\n"
    fields = list(iter_fields(header))
    assert [field.name for field in fields] == [b"Subject", b"X-EMPTY", b"to"]
    assert [header[f.start : f.end] for f in fields] == [
        b"Subject : a\r\n  b\r\n",
        b"X-EMPTY:\r\n",
        b"to:x\n",
    ]
    assert [header[f.value_start : f.end] for f in fields] == [b"a\r\n  b\r\n", b"\r\n", b"x\n"]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b"From me@x Mon Jan 1\r\nA: b\r\n\r\n", [b"A"]),
        (b" stray continuation\r\nA: b\r\n", [b"A"]),
        (b"no colon\r\n continued: here\r\nA: b", [b"A"]),
        (b": no name\r\nA: b\r\n", [b"A"]),
        (b"b\xe4d: 8bit name\r\nA: \xe4\r\n", [b"A"]),
        (b"A: b\x00c\r\n\x00: d\r\nB: \x00", [b"A", b"B"]),
        (b"A:b\r\n:\r\n::\r\nB:c", [b"A", b"B"]),
        (b"", []),
        (b"\r\n", []),
        (b"\r", []),
    ],
)
def test_lines_that_are_no_fields_are_skipped(header: bytes, names: list[bytes]) -> None:
    assert [field.name for field in iter_fields(header)] == names


def test_first_and_all_values() -> None:
    header = (
        b"SUBJECT:\r\n one\r\n\ttwo \r\nX: 1\r\nSubjects: no\r\nsubject : three\r\nX: subject: no\r\n\r\n"
    )
    assert first_value(header, b"subject") == b"one\ttwo"
    assert all_values(header, b"subject") == [b"one\ttwo", b"three"]
    assert first_value(header, b"x") == b"1"
    assert first_value(header, b"y") is None
    assert all_values(header, b"y") == []
    assert first_value(b"subject:", b"subject") == b""
    assert first_value(b"subject\r\nsubject: x", b"subject") == b"x"


def test_unfold_keeps_the_blank() -> None:
    assert unfold(b"a\r\n b\n\tc\r\n") == b"a b\tc"


HEADER = b"From: a\r\nTo: b,\r\n c\r\ngarbage\r\nX: d\r\nTO: e\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "names", "inverted", "cut"),
    [
        (HEADER, {b"to"}, False, b"To: b,\r\n c\r\nTO: e\r\n\r\n"),
        (HEADER, {b"to"}, True, b"From: a\r\nX: d\r\n\r\n"),
        (HEADER, {b"x", b"from", b"none"}, False, b"From: a\r\nX: d\r\n\r\n"),
        (HEADER, {b"none"}, False, b"\r\n"),
        (HEADER, (), True, b"From: a\r\nTo: b,\r\n c\r\nX: d\r\nTO: e\r\n\r\n"),
        (b"To: x", [b"to"], False, b"To: x"),
        (b"To: x\r\n", [b"to"], False, b"To: x\r\n"),
        (b"To: x\n\n", [b"to"], False, b"To: x\n\r\n"),
        (b"", [b"to"], True, b""),
        (b"\r\n", [b"to"], True, b"\r\n"),
    ],
)
def test_cut_fields(header: bytes, names: set[bytes], inverted: bool, cut: bytes) -> None:
    assert cut_fields(header, names, inverted=inverted) == cut


@pytest.mark.parametrize(
    ("value", "head", "pairs"),
    [
        (b"text/plain", b"text/plain", []),
        (b"", b"", []),
        (b";;; ;", b"", []),
        (b"text/plain; charset=us-ascii", b"text/plain", [(b"CHARSET", b"us-ascii")]),
        (b"a/b;x=1;y=2", b"a/b", [(b"X", b"1"), (b"Y", b"2")]),
        (b'a/b; x = "1; y=2" ; z=3', b"a/b", [(b"X", b"1; y=2"), (b"Z", b"3")]),
        (b'a/b; x="a\\"b\\\\c"', b"a/b", [(b"X", b'a"b\\c')]),
        (b'a/b; name="C:\\dir\\file.txt"', b"a/b", [(b"NAME", b"C:\\dir\\file.txt")]),
        (b"a/b; name=my file (1).pdf ; y=2", b"a/b", [(b"NAME", b"my file (1).pdf"), (b"Y", b"2")]),
        (b"a/b; charset=us-ascii (Plain text)", b"a/b", [(b"CHARSET", b"us-ascii")]),
        (b'a/b; x="never closed; y=2', b"a/b", [(b"X", b"never closed; y=2")]),
        (b"a/b; junk; =1; x; y=2", b"a/b", [(b"Y", b"2")]),
        (b'a/b; x="1" junk; y=2', b"a/b", [(b"X", b"1"), (b"Y", b"2")]),
        (b"a/b; x=", b"a/b", [(b"X", b"")]),
        (b'a/b; x="', b"a/b", [(b"X", b"")]),
        (b'a/b; x="\\', b"a/b", [(b"X", b"")]),
        (
            b"attachment; filename*0*=UTF-8''a%20; filename*1=b.txt",
            b"attachment",
            [(b"FILENAME*", b"UTF-8''a%20b.txt")],
        ),
        (b"a/b; x=1; n*1=b; n*0=a; y=2", b"a/b", [(b"X", b"1"), (b"N", b"ab"), (b"Y", b"2")]),
        (b"a/b; n*0*=u''a; n*1=50%; n*2*=%20", b"a/b", [(b"N*", b"u''a50%25%20")]),
        (b"a/b; n*0=it's Bob's; n*1*=%20", b"a/b", [(b"N*", b"it%27s Bob%27s%20")]),
        (b"a/b; n*0=a; n*2=c; m*1=x", b"a/b", [(b"N", b"a"), (b"N*2", b"c"), (b"M*1", b"x")]),
        (b"a/b; n*0=a; n*0=a; n*01=c", b"a/b", [(b"N", b"a"), (b"N*01", b"c")]),
        (b"a/b; name=\xe4\xf6.txt", b"a/b", [(b"NAME", b"\xe4\xf6.txt")]),
    ],
)
def test_parameters(value: bytes, head: bytes, pairs: list[tuple[bytes, bytes]]) -> None:
    assert parse_parameters(value) == (head, pairs)


def test_parameters_are_bounded() -> None:
    assert len(parse_parameters(b"a/b" + b";x=1" * 10_000)[1]) == MAX_PARAMETERS


@pytest.mark.parametrize(
    ("value", "joined"),
    [
        (b"x; name=a", b"a"),
        (b"x; name*0=a; name*1=b; name*2=c", b"abc"),
        (b"x; name*1=b; name*0=a", b"ab"),
        (b"x; name*0=a; name*2=c", b"a"),  # a gap ends it
        (b"x; name*=utf-8'en'%e4%b8%80", b"\xe4\xb8\x80"),
        (b"x; name*0*=utf-8'en'%41; name*1=%41; name*2*=%42", b"A%41B"),
        (b"x; name*=%zz%", b"%zz%"),
        (b"x; name*1=b", None),
        (b"x; names=b", None),
        (b"x", None),
    ],
)
def test_parameter_joins_continuations(value: bytes, joined: bytes | None) -> None:
    assert parameter(parse_parameters(value)[1], b"NAME") == joined
