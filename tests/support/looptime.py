"""Time that passes on the running loop's clock when a test says so."""

from __future__ import annotations

import asyncio


def pass_s(seconds: float) -> None:
    """For asyncio's own loop: all its timers come nearer, and what reads its clock sees them pass."""
    loop = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + seconds  # type: ignore[method-assign]
