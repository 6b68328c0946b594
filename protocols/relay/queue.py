"""What the runner needs of its queue and of who reports failures. The queue's methods block."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from storage.model import AccountId
from storage.relayfile import Record, RelayMessage


class Queue(Protocol):
    """``storage.relayqueue.RelayQueue``; each method is explained there."""

    def entries(self, longest_s: float) -> Iterator[tuple[float, str]]: ...

    def ids(self, state: str) -> list[str]: ...

    def recover(self, busy: Collection[str] = ()) -> int: ...

    def take(self, ids: Iterable[str], longest_s: float) -> list[RelayMessage]: ...

    def release(self, ids: Collection[str]) -> None: ...

    def body(
        self, message: RelayMessage, state: str = "processing", limit_bytes: int | None = None
    ) -> bytes: ...

    def record(self, message: RelayMessage, record: Record) -> None: ...

    def finish(self, message_id: str) -> None: ...

    def postpone(self, message_id: str, due_at: float) -> None: ...

    def bury(self, message_id: str) -> None: ...

    def sweep(self, retention_s: float) -> int: ...


class Claims(Protocol):
    """``storage.sending.HandoverLog``, where it is explained."""

    async def claim_handover(
        self, account_id: AccountId, holders: Mapping[bytes, str]
    ) -> frozenset[bytes]: ...


class Bouncer(Protocol):
    async def bounce(self, sender: str, report: bytes, key: bytes) -> str:
        """Bring a report to the sender of mail that failed: durable when it returns, and one only for one
        key.

        Returns ``delivered`` (to a local account), ``queued`` (for the relay) or ``undeliverable`` (a local
        account that takes no mail, so nobody can be told). Raises StorageError: not now.
        """
        ...
