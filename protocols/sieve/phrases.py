"""Strings of a script: constant, or put together when they are used (RFC 5228 §2.4.2.4, RFC 5229 §3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .run import Run

MAX_CAPTURES = 99
_REFERENCE = re.compile(r"\$\{([0-9]++|[A-Za-z_][A-Za-z0-9_]*+(?:\.[A-Za-z_][A-Za-z0-9_]*+)*+)\}")
_ENCODED = re.compile(
    r"\$\{(?:(?i:(hex)):([ \t\r\n]*+(?:[0-9A-Fa-f]{1,2}(?:[ \t\r\n]++|(?=\})))++)"
    r"|(?i:unicode):([ \t\r\n]*+(?:[0-9A-Fa-f]++(?:[ \t\r\n]++|(?=\})))++))\}"
)


class BadText(ValueError):
    """The message is for the author of the script."""


def decode_characters(value: str) -> str:
    """encoded-character (RFC 5228 §2.4.2.4). What does not fit its syntax stays as it is. Raises BadText."""
    return _ENCODED.sub(_decoded, value) if "${" in value else value


def _decoded(match: re.Match[str]) -> str:
    if match[1]:
        octets = bytes(int(pair, 16) for pair in match[2].split())
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError:
            raise BadText(f"{match[0]} is not valid UTF-8") from None
    points = [int(point, 16) if len(point.lstrip("0")) <= 6 else 1 << 31 for point in match[3].split()]
    if any(point > 0x10FFFF or 0xD800 <= point <= 0xDFFF for point in points):
        raise BadText(f"{match[0]} has a number that is no character")
    return "".join(map(chr, points))


class Constant:
    """A string that is always the same."""

    __slots__ = ("constant",)

    def __init__(self, value: str) -> None:
        self.constant: str | None = value

    def value(self, run: Run) -> str:
        assert self.constant is not None
        return self.constant


class Template:
    """A string with references to variables."""

    __slots__ = ("_parts", "constant", "names")

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = tuple(parts)  # text and names in turn
        self.constant: str | None = None
        self.names = self._parts[1::2]

    def value(self, run: Run) -> str:
        """Raises OverBudget."""
        parts = list(self._parts)
        parts[1::2] = [run.variable(name) for name in self.names]
        value = "".join(parts)
        run.budget.hold(len(value))
        return value


Phrase: TypeAlias = Constant | Template


def phrase(value: str) -> Phrase:
    """With its references; names in lower case."""
    if "${" not in value:
        return Constant(value)
    parts = _REFERENCE.split(value)
    if len(parts) == 1:
        return Constant(value)
    parts[1::2] = [name.lower() for name in parts[1::2]]
    return Template(parts)


class Phrases:
    """A string list."""

    __slots__ = ("_phrases", "constants")

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self._phrases = tuple(phrases)
        texts = [each.constant for each in phrases if each.constant is not None]
        self.constants: tuple[str, ...] | None = tuple(texts) if len(texts) == len(phrases) else None

    def values(self, run: Run) -> Sequence[str]:
        if self.constants is not None:
            return self.constants
        return [each.value(run) for each in self._phrases]

    def __len__(self) -> int:
        return len(self._phrases)
