"""Waiting for what takes time: for conditions, never for times. Patience costs nothing where all is well."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0


def eventually(
    probe: Callable[[], T], patience_s: float = PATIENCE_S, what: str = "", *, every_s: float = 0.05
) -> T:
    """What ``probe`` answers once that is true; its last AssertionError, or one of ours, when time is up.

    What cannot be reached yet (OSError) counts as a no.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            answer = probe()
            problem = f"still {answer!r} after {patience_s:g} s: {what}"
            if answer:
                return answer
        except (AssertionError, OSError) as error:
            problem = f"{what} {error}"
        assert time.monotonic() < deadline, problem
        time.sleep(every_s)


def seconds_until(condition: Callable[[], object], patience_s: float, what: str = "") -> float:
    """How long it took."""
    started = time.monotonic()
    eventually(condition, patience_s, what, every_s=0.01)
    return time.monotonic() - started


def settled(look: Callable[[], T], wanted: T, patience_s: float = PATIENCE_S) -> T:
    """What is seen once it is ``wanted``, or at last."""
    deadline = time.monotonic() + patience_s
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


async def until(holds: Callable[[], object], what: str = "", patience_s: float = PATIENCE_S) -> None:
    """``eventually`` beside a loop. A coroutine's result is awaited."""
    deadline = time.monotonic() + patience_s
    while True:
        found = holds()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"still {found!r} after {patience_s:g} s: {what}"
        await asyncio.sleep(0.002)
