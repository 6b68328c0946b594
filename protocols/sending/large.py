"""Looking at a message whose header may be large: the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from .occasion import Occasion

T = TypeVar("T")
# What is read of it here takes some milliseconds.
LOOP_HEADER_BYTES = 64 * 1024


async def beside_loop(occasion: Occasion, look: Callable[[], T]) -> T:
    """What ``look`` says, which reads the header and nothing else."""
    if len(occasion.header) <= LOOP_HEADER_BYTES:
        return look()
    return await asyncio.to_thread(look)
