"""What is remembered of mail that scripts send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .model import AccountId


class RedirectLog(Protocol):
    """Redirects by account, over all nodes."""

    async def admit(
        self, account_id: AccountId, keys: Sequence[bytes], *, limit: int, window_s: float
    ) -> frozenset[bytes]:
        """Those of ``keys`` that may be sent now, in their order as long as there is room: not more than
        ``limit`` in any ``window_s``. They count from now on; those that were let in within the window count
        once and are let in again. One write. Raises Unavailable, CommitUnknown (asking again is harmless).
        """
        ...
