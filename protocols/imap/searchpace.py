"""How many searches that read messages one account may make: a pure model, the time is an argument."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from protocols.errors import LimitReached
from protocols.ports import ServerPolicy
from storage.model import AccountId

OPTION: Final = "search limit"  # a ``SearchLimit`` in ``ServerPolicy.options``
_SWEEP_ACCOUNTS: Final = 1024  # so many more than at the last sweep: forget who has not searched lately


# Called before a search that has to read messages. Raises TooManySearches.
SearchLimit = Callable[[AccountId], Awaitable[None]]


class TooManySearches(LimitReached):
    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__(f"Too many searches, try again in {math.ceil(wait_s)} seconds")


@dataclass(frozen=True, slots=True)
class SearchRate:
    """``searches`` in any ``window_s`` seconds."""

    searches: int
    window_s: float


class SearchPace:
    """One server's. Holds at most ``searches`` times for each account that searched in the last window."""

    def __init__(self, rate: SearchRate | None) -> None:
        self.rate = rate  # None: no limit, nothing is kept. May be replaced, and holds at once
        self._begun: dict[AccountId, deque[float]] = {}
        self._sweep_at = _SWEEP_ACCOUNTS

    def begin(self, account: AccountId, now: float) -> None:
        """Counts a search. Raises TooManySearches; those that are refused do not count."""
        rate = self.rate
        if rate is None:
            self._begun.clear()
            return
        if len(self._begun) >= self._sweep_at:
            self._sweep(rate, now)
        begun = self._begun.setdefault(account, deque())
        _forget(begun, rate, now)
        if len(begun) >= rate.searches:
            raise TooManySearches(begun[-rate.searches] + rate.window_s - now)
        begun.append(now)

    def _sweep(self, rate: SearchRate, now: float) -> None:
        for account, begun in list(self._begun.items()):
            _forget(begun, rate, now)
            if not begun:
                del self._begun[account]
        self._sweep_at = len(self._begun) + _SWEEP_ACCOUNTS


def _forget(begun: deque[float], rate: SearchRate, now: float) -> None:
    while begun and now - begun[0] >= rate.window_s:
        begun.popleft()


def limit_of(policy: ServerPolicy) -> SearchLimit | None:
    found = policy.options.get(OPTION)
    if found is not None and not callable(found):
        raise TypeError(f"option {OPTION!r} is a {type(found).__name__}")
    return found
