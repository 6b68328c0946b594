"""Many calls within a moment become one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Gathered:
    """Calls ``tell`` once, ``within_s`` after the first of some calls; a later call starts anew. For hints
    that say the same each time."""

    def __init__(self, tell: Callable[[], None], within_s: float) -> None:
        self._tell = tell
        self._within_s = within_s
        self._is_due = False

    def __call__(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(self._within_s, self._fire)

    def _fire(self) -> None:
        self._is_due = False
        self._tell()
