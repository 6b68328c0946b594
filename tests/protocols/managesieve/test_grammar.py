"""Strings, words and names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.managesieve import grammar
from protocols.managesieve.grammar import Announced, BadSyntax, Text, Word


@pytest.mark.parametrize(
    ("line", "tokens", "literal"),
    [
        (b"", [], None),
        (b"NOOP", [Word(b"NOOP")], None),
        (b"NOOP  ", [Word(b"NOOP")], None),
        (b'SETACTIVE ""', [Word(b"SETACTIVE"), Text(b"")], None),
        (b'X "a b"  12', [Word(b"X"), Text(b"a b"), Word(b"12")], None),
        (b'X "\\"\\\\"', [Word(b"X"), Text(b'"\\')], None),
        ('X "größe"'.encode(), [Word(b"X"), Text("größe".encode())], None),
        (b'X "{5+}"', [Word(b"X"), Text(b"{5+}")], None),
        (b"X {5+}", [Word(b"X")], Announced(5, is_synchronizing=False)),
        (b"X {0}", [Word(b"X")], Announced(0, is_synchronizing=True)),
        (b"{5+}", [], Announced(5, is_synchronizing=False)),
    ],
)
def test_lines(line: bytes, tokens: list[grammar.Token], literal: Announced | None) -> None:
    assert grammar.read_line(line, is_rest=False) == (tokens, literal)


@pytest.mark.parametrize(
    "line",
    [
        b" NOOP",
        b'X"a"',
        b'X "a"b',
        b'X "a""b"',
        b'X "a',
        b'X "\\n"',
        b'X "a\nb"',
        b'X "a\0b"',
        b'X "\xff"',
        b"X {5+} ",
        b"X {5+}x",
        b"X {+}",
        b"X {12345678901+}",
        b"X{5+}",
        b"X (a)",
        b"X\ty",
    ],
)
def test_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        grammar.read_line(line, is_rest=False)


def test_the_rest_of_a_line_begins_with_a_space() -> None:
    assert grammar.read_line(b"", is_rest=True) == ([], None)
    assert grammar.read_line(b' "a"', is_rest=True) == ([Text(b"a")], None)
    with pytest.raises(BadSyntax):
        grammar.read_line(b'"a"', is_rest=True)


@pytest.mark.parametrize("line", [b'broken" {7+}', b"((( {7+}", b"x{7+}"])
def test_a_broken_line_still_announces(line: bytes) -> None:
    assert grammar.announced(line) == Announced(7, is_synchronizing=False)


@pytest.mark.parametrize(
    ("word", "value"),
    [(b"0", 0), (b"4294967295", 2**32 - 1), (b"4294967296", None), (b"-1", None), (b"1K", None)],
)
def test_numbers(word: bytes, value: int | None) -> None:
    if value is None:
        with pytest.raises(BadSyntax):
            grammar.number(Word(word))
    else:
        assert grammar.number(Word(word)) == value


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (b"", b'""'),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"a\nb", b"{3}\r\na\nb"),
        (b"\xff", b"{1}\r\n\xff"),
        (b"x" * 1024, b'"' + b"x" * 1024 + b'"'),
        (b"x" * 1025, b"{1025}\r\n" + b"x" * 1025),
    ],
)
def test_strings_go_out_quoted_where_that_is_allowed(value: bytes, wire: bytes) -> None:
    assert grammar.string(value) == wire


@given(st.binary(max_size=50))
@settings(max_examples=200, deadline=None)
def test_what_goes_out_quoted_comes_back(value: bytes) -> None:
    wire = grammar.string(value)
    if wire.startswith(b'"'):
        assert grammar.read_line(wire, is_rest=False) == ([Text(value)], None)
    else:
        assert wire == b"{%d}\r\n" % len(value) + value


@given(st.binary(max_size=40) | st.text('"\\{}+ 5aX', max_size=30).map(str.encode), st.booleans())
@settings(max_examples=200, deadline=None)
def test_foreign_lines_are_read_or_refused(line: bytes, is_rest: bool) -> None:
    try:
        tokens, literal = grammar.read_line(line, is_rest=is_rest)
    except BadSyntax:
        return
    assert literal is None or literal == grammar.announced(line)
    assert len(tokens) <= len(line)
