"""What is remembered of mail that scripts send: how much, and whom they have answered.

It is recorded before anything is sent, in one statement, so that of several nodes that mean to send the same
at once exactly one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from .model import AccountId

KEY_BYTES = 32


class RedirectLog(Protocol):
    """Redirects, and other mail of one ``kind`` (a word of the program), by account, over all nodes."""

    async def admit(
        self,
        account_id: AccountId,
        keys: Sequence[bytes],
        *,
        limit: int,
        window_s: float,
        kind: str = "redirect",
    ) -> frozenset[bytes]:
        """Those of ``keys`` that may be sent now, in their order as long as there is room: not more than
        ``limit`` in any ``window_s``. They count from now on; those that were let in within the window count
        once and are let in again. One write, whose cost grows with ``limit``.

        Raises Unavailable, CommitUnknown (asking again is harmless), NotFound (the account is gone).
        """
        ...


class HandoverLog(Protocol):
    """Which of the copies of one thing to send goes, when several attempts have queued one each: the first
    that is claimed. Methods raise Unavailable, NotFound (the account is gone)."""

    async def handed_over(self, account_id: AccountId, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Those that were claimed within RETRY_WINDOW, by whomever. One read of the primary."""
        ...

    async def claim_handover(self, account_id: AccountId, holders: Mapping[bytes, str]) -> frozenset[bytes]:
        """``holders``: by key (KEY_BYTES), the name of the copy that asks, which no other copy has.

        Those keys whose copy it is that goes: nobody claimed them within RETRY_WINDOW, or this copy did. One
        statement. Raises CommitUnknown too; asking again is harmless.
        """
        ...


class AnswerLog(Protocol):
    """Methods raise Unavailable, CommitUnknown (then do not send: it may be recorded), NotFound (the account
    is gone)."""

    async def claim_answer(self, account_id: AccountId, key: bytes, period_s: int, cause: bytes) -> bool:
        """Whether to answer now; recorded if so.

        ``key`` (KEY_BYTES) names who is answered with what: False while an answer with it is younger than the
        ``period_s`` it was given; 0 asks nothing and remembers nothing. ``cause`` (KEY_BYTES) names the
        message that is answered: True at most once for each within RETRY_WINDOW. One statement.
        """
        ...

    async def release_answer(self, account_id: AccountId, key: bytes, cause: bytes) -> None:
        """The answer that was claimed was not sent for certain: forget it. Harmless when it is forgotten."""
        ...
