"""Strings and words of RFC 5804 §4: lines to tokens, octets to strings.

A command is a line that literals may continue: one that ends in ``{n+}`` is followed by n octets, then by
the rest of the command. ``read_line`` takes one such line; the octets are the machine's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_QUOTED_BYTES = 1024  # of what we send; from clients any that fits into a line is taken
MAX_NUMBER = 2**32 - 1

# Safe characters, and the two that are written with a backslash.
_TOKEN = re.compile(
    rb'(?P<blank> *)(?:"(?P<quoted>(?:[^"\\\x00\r\n]|\\["\\])*+)"'
    rb'|(?P<literal>\{[0-9]{1,10}\+?\}\Z)|(?P<word>[^\s"\\{}()]++))'
)
_LITERAL_TAIL = re.compile(rb"\{([0-9]{1,10})(\+?)\}\Z")
_UNSAFE = re.compile(rb"[\x00\r\n]")
_ESCAPED = re.compile(rb'\\(["\\])')
_SPECIAL = re.compile(rb'(["\\])')


class BadSyntax(Exception):
    """The line is no command, nor a part of one."""


@dataclass(frozen=True, slots=True)
class Word:
    """A verb or a number."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """A string, quoted or literal."""

    value: bytes = field(repr=False)


Token = Word | Text


@dataclass(frozen=True, slots=True)
class Announced:
    """A literal that follows the line."""

    size_bytes: int
    is_synchronizing: bool  # waits for a continuation that this protocol does not have (RFC 5804 §4)


def announced(line: bytes) -> Announced | None:
    """What a line announces, whatever stands before it: also behind a broken command its octets follow."""
    match = _LITERAL_TAIL.search(line)
    return None if match is None else Announced(int(match[1]), not match[2])


def read_line(line: bytes, *, is_rest: bool) -> tuple[list[Token], Announced | None]:
    """The tokens of a line, and the literal at its end. ``is_rest``: a literal stood before it.

    Raises BadSyntax.
    """
    tokens: list[Token] = []
    literal: Announced | None = None
    at, needs_blank, end = 0, is_rest, len(line.rstrip(b" "))
    while at < end:
        match = _TOKEN.match(line, at)
        if match is None or bool(match["blank"]) is not needs_blank:
            raise BadSyntax
        at, needs_blank = match.end(), True
        if match["literal"] is not None:
            literal = announced(line)
        else:
            tokens.append(_token(match))
    return tokens, literal


def _token(match: re.Match[bytes]) -> Token:
    if match["quoted"] is None:
        return Word(match["word"])
    value = _ESCAPED.sub(rb"\1", match["quoted"])
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSyntax from None
    return Text(value)


def number(token: Token) -> int:
    """Raises BadSyntax."""
    if not (isinstance(token, Word) and token.value.isdigit() and len(token.value) <= 10):
        raise BadSyntax
    value = int(token.value)
    if value > MAX_NUMBER:
        raise BadSyntax
    return value


def string(value: bytes) -> bytes:
    """Quoted where that is allowed, else a literal in the form of servers, without ``+``."""
    if len(value) <= MAX_QUOTED_BYTES and not _UNSAFE.search(value) and _is_text(value):
        return b'"' + _SPECIAL.sub(rb"\\\1", value) + b'"'
    return literal(value)


def literal(value: bytes) -> bytes:
    return b"{%d}\r\n%b" % (len(value), value)


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
