"""Which writes of one owner a node knows: all up to a number, and some beyond.

A range (after, upto] is known when everything it was good for has been heard: the numbers in it that no
message named were overwritten before they could be sent.
"""

from __future__ import annotations

from typing import Final

MAX_AHEAD: Final = 256  # ranges beyond the first gap


class Known:
    """``upto``: everything to this number is known. What is beyond it is kept as disjoint ranges in order;
    of too many the last is forgotten, which costs hearing it again."""

    __slots__ = ("_ahead", "upto")

    def __init__(self) -> None:
        self.upto = 0
        self._ahead: list[tuple[int, int]] = []

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
    def gaps(self) -> int:
        return len(self._ahead)

    def forget(self) -> None:
        self.upto = 0
        self._ahead.clear()
