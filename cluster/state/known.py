"""Which writes of one owner a node knows: all up to a number, and some beyond.

A range (after, upto] is known when everything it was good for has been heard: the numbers in it that no
message named were overwritten before they could be sent. What is beyond a gap matters most for an owner that
died: nobody may be left who knows what was in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MAX_AHEAD: Final = 256  # ranges beyond the first gap

Span = tuple[int, int]  # (after, upto]


class Known:
    """``upto``: everything to this number is known. What is beyond it is kept as disjoint ranges in order;
    of too many the last is forgotten, which costs hearing it again."""

    __slots__ = ("_ahead", "upto")

    def __init__(self) -> None:
        self.upto = 0
        self._ahead: list[Span] = []

    def has(self, seq: int) -> bool:
        return seq <= self.upto or any(after < seq <= upto for after, upto in self._ahead)

    def covers(self, after: int, upto: int) -> bool:
        if upto <= max(self.upto, after):
            return True
        after = max(after, self.upto)
        return any(low <= after and upto <= high for low, high in self._ahead)

    def add(self, after: int, upto: int) -> None:
        if upto <= max(self.upto, after):
            return
        if self._ahead:
            self._add_among(after, upto)
        elif after <= self.upto:
            self.upto = upto
        else:
            self._ahead.append((after, upto))

    def _add_among(self, after: int, upto: int) -> None:
        apart = []
        for low, high in self._ahead:
            if high < after or low > upto:
                apart.append((low, high))
            else:
                after, upto = min(after, low), max(upto, high)
        apart.append((after, upto))
        apart.sort()
        while apart and apart[0][0] <= self.upto:
            self.upto = max(self.upto, apart.pop(0)[1])
        self._ahead = apart[:MAX_AHEAD]

    @property
    def ahead(self) -> list[Span]:
        """Beyond the first gap, in order."""
        return self._ahead

    def beyond(self, upto: int, ahead: Sequence[Span]) -> list[Span]:
        """What is known here and not by one who knows as much as this."""
        found = _cut((0, self.upto), upto, ahead)
        for span in self._ahead:
            found += _cut(span, upto, ahead)
        return found

    def lacks(self, upto: int, ahead: Sequence[Span]) -> bool:
        """Whether one who knows as much as this knows something more."""
        return not self.covers(0, upto) or not all(self.covers(*span) for span in ahead)

    def forget(self) -> None:
        self.upto = 0
        self._ahead.clear()


def _cut(span: Span, upto: int, ahead: Sequence[Span]) -> list[Span]:
    """What is left of it without (0, upto] and ``ahead``, which is in order."""
    after, end = max(span[0], upto), span[1]
    left = []
    for low, high in ahead:
        if high <= after or low >= end:
            continue
        if low > after:
            left.append((after, low))
        after = max(after, high)
    if after < end:
        left.append((after, end))
    return left
