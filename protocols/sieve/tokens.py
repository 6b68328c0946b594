"""The lexical structure of a script (RFC 5228 §8.1): from text to tokens, linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .errors import BadScript

MAX_NUMBER = 2**63 - 1  # RFC 5228 §2.4.1 asks for 2**31 - 1
_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_TOKEN = re.compile(
    r"(?P<blank>(?:[ \t\r\n]++|#[^\n]*+|/\*(?s:.*?)\*/)++)"
    r"|(?P<string>\"[^\"\\]*+(?:\\(?s:.)[^\"\\]*+)*+\")"
    r"|(?P<multiline>(?i:text):[ \t]*+(?:\#[^\n]*+)?\r?\n)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*+)"
    r"|(?P<tag>:[A-Za-z_][A-Za-z0-9_]*+)"
    r"|(?P<number>[0-9]++[KkMmGg]?)(?![A-Za-z0-9_])"
    r"|(?P<mark>[][(){},;])"
)
_MULTILINE_END = re.compile(r"^\.\r?(?:\n|\Z)", re.MULTILINE)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_STUFFED = re.compile(r"^\.", re.MULTILINE)
_LONE_LF = re.compile(r"(?<!\r)\n")


class Token(NamedTuple):
    """``kind``: word, tag, number, string, end, or the mark itself. Words and tags are in lower case."""

    kind: str
    value: str
    offset: int


def tokens(text: str) -> Iterator[Token]:
    """All tokens and one ``end``. Raises BadScript where the text is none."""
    pos, stop, match_at = 0, len(text), _TOKEN.match
    while pos < stop:
        match = match_at(text, pos)
        if match is None:
            raise BadScript(pos, _complaint(text, pos))
        kind = match.lastgroup
        start, pos = pos, match.end()
        if kind == "mark":
            yield Token(match[0], match[0], start)
        elif kind == "string":
            value = match[0][1:-1]
            yield Token("string", _ESCAPE.sub(r"\1", value) if "\\" in value else value, start)
        elif kind == "multiline":
            value, pos = _multiline(text, pos, start)
            yield Token("string", value, start)
        elif kind == "tag":
            yield Token("tag", match[0][1:].lower(), start)
        elif kind != "blank":
            yield Token(str(kind), match[0].lower(), start)
    yield Token("end", "", stop)


def _multiline(text: str, pos: int, start: int) -> tuple[str, int]:
    """RFC 5228 §2.4.2: lines up to one that is a dot; lines of the text have CRLF."""
    end = _MULTILINE_END.search(text, pos)
    if end is None:
        raise BadScript(start, 'the text is not ended by a line with only "."')
    value = _STUFFED.sub("", text[pos : end.start()])
    return _LONE_LF.sub("\r\n", value), end.end()


def number(token: Token) -> int:
    """Raises BadScript above MAX_NUMBER."""
    digits = token.value
    factor = _FACTORS.get(digits[-1].upper(), 1)
    value = int(digits if factor == 1 else digits[:-1]) * factor if len(digits) <= 20 else MAX_NUMBER + 1
    if value > MAX_NUMBER:
        raise BadScript(token.offset, "the number is too large")
    return value


def _complaint(text: str, pos: int) -> str:
    if text[pos] == '"':
        return "the string is not closed"
    if text.startswith("/*", pos):
        return "the comment is not closed"
    if text[pos].isdigit():
        return "a number is followed by K, M or G or by nothing"
    return f"{text[pos]!r} cannot stand here"
