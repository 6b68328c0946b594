"""``:matches`` (RFC 5228 §2.7.1) in linear time: ``*`` and ``?``, backslash before what is meant literally.

Between two stars the leftmost place is taken, so each star matches as little as possible (RFC 5229 §3.2). A
piece without ``?`` is found by str.find; one with it by a shift-and automaton whose states are the bits of
one integer, so its cost is the length of the value times a 64th of that of the piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from .budget import Budget

# Places that are looked at one by one before the automaton starts.
FAST_TRIES = 8

Spans = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Characters between two stars; None is ``?``."""

    chars: tuple[str | None, ...]
    literal: str | None  # when there is no ``?``
    masks: dict[str, int]
    any_mask: int
    anchor: str = ""  # the longest run without ``?``, and where in the piece it begins
    anchor_at: int = 0

    def at(self, value: str, start: int) -> bool:
        if self.literal is not None:
            return value.startswith(self.literal, start)
        if start < 0 or start + len(self.chars) > len(value):
            return False
        return all(char is None or value[start + n] == char for n, char in enumerate(self.chars))

    def find(self, value: str, start: int, stop: int, budget: Budget) -> int:
        """The leftmost place in start..stop, or -1."""
        if self.literal is not None:
            return value.find(self.literal, start, stop)
        for _ in range(FAST_TRIES):
            found = value.find(self.anchor, start + self.anchor_at, stop) - self.anchor_at
            if found < start:
                return -1
            if found + len(self.chars) <= stop and self.at(value, found):
                return found
            start = found + 1
        return self._shift_and(value, start, stop, budget)

    def _shift_and(self, value: str, start: int, stop: int, budget: Budget) -> int:
        masks, any_mask, state = self.masks, self.any_mask, 0
        goal = 1 << (len(self.chars) - 1)
        cost = 1 + len(self.chars) // 512
        for pos in range(start, stop):
            if not pos & 1023:
                budget.spend(32 * cost)
            state = ((state << 1) | 1) & masks.get(value[pos], any_mask)
            if state & goal:
                return pos - len(self.chars) + 1
        return -1


def _piece(chars: list[str | None]) -> _Piece:
    if None not in chars:
        return _Piece(tuple(chars), "".join(map(str, chars)), {}, 0)
    any_mask = sum(1 << n for n, char in enumerate(chars) if char is None)
    masks: dict[str, int] = {}
    for n, char in enumerate(chars):
        if char is not None:
            masks[char] = masks.get(char, any_mask) | (1 << n)
    runs = "".join("\0" if char is None else char for char in chars).split("\0")
    anchor = max(runs, key=len)
    at = sum(len(run) + 1 for run in runs[: runs.index(anchor)])
    return _Piece(tuple(chars), None, masks, any_mask, anchor, at)


class Glob:
    """A pattern over values that the comparator has normalised already."""

    __slots__ = ("_pieces", "needle")

    def __init__(self, pattern: str) -> None:
        pieces: list[list[str | None]] = [[]]
        escaped = False
        for char in pattern:
            if escaped or char not in "*?\\":
                pieces[-1].append(char)
                escaped = False
            elif char == "*":
                pieces.append([])
            elif char == "?":
                pieces[-1].append(None)
            else:
                escaped = True
        self._pieces = [_piece(chars) for chars in pieces]
        # the longest run of plain characters, which every value that matches has
        self.needle = max((piece.literal or piece.anchor for piece in self._pieces), key=len)

    def spans(self, value: str, budget: Budget) -> Spans | None:
        """What each wildcard matched, in order; None when the value does not match."""
        starts = self._places(value, budget)
        if starts is None:
            return None
        found: Spans = []
        for n, (piece, start) in enumerate(zip(self._pieces, starts, strict=True)):
            if n:
                before = starts[n - 1] + len(self._pieces[n - 1].chars)
                found.append((before, start))
            found += [(start + k, start + k + 1) for k, char in enumerate(piece.chars) if char is None]
        return found

    def matches(self, value: str, budget: Budget) -> bool:
        return self._places(value, budget) is not None

    def _places(self, value: str, budget: Budget) -> list[int] | None:
        """Where each piece stands."""
        if self.needle not in value:  # most values do not even have the longest run of plain characters
            return None
        first, last = self._pieces[0], self._pieces[-1]
        if not first.at(value, 0):
            return None
        if len(self._pieces) == 1:
            return [0] if len(value) == len(first.chars) else None
        end = len(value) - len(last.chars)
        pos = len(first.chars)
        if end < pos or not last.at(value, end):
            return None
        places = [0]
        for piece in self._pieces[1:-1]:
            place = piece.find(value, pos, end, budget) if piece.chars else pos
            if place < 0:
                return None
            places.append(place)
            pos = place + len(piece.chars)
        places.append(end)
        return places
