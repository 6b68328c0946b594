"""An outbox that keeps what it was given, for tests of what submits mail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocols.ports import MailKind
from storage.dsn import NO_REQUEST, DsnRequest
from storage.errors import StorageError
from storage.model import AccountId


@dataclass(frozen=True)
class Submitted:
    envelope_from: str
    recipients: tuple[str, ...]
    message: bytes
    kind: MailKind
    account: AccountId | None
    key: bytes
    dsn: DsnRequest = NO_REQUEST


class FakeOutbox:
    """``protocols.ports.Outbox``; ``failure`` is raised instead of taking anything."""

    def __init__(self) -> None:
        self.sent: list[Submitted] = []  # all that was ever taken
        self.queued: dict[str, bytes] = {}  # what waits: key by name
        self.held: set[bytes] = set()  # keys
        self.is_fast = False  # what is due is relayed at once
        self.failure: StorageError | None = None

    async def submit(
        self,
        envelope_from: str,
        recipients: Sequence[str],
        message: bytes | Sequence[bytes],
        *,
        kind: MailKind,
        account: AccountId | None,
        key: bytes = b"",
        dsn: DsnRequest = NO_REQUEST,
        held_s: float = 0.0,
    ) -> str:
        if self.failure is not None:
            raise self.failure
        whole = message if isinstance(message, bytes) else b"".join(message)
        for name, waiting in self.queued.items():
            if key and waiting == key:
                return name
        self.sent.append(Submitted(envelope_from, tuple(recipients), whole, kind, account, key, dsn))
        name = f"fake-{len(self.sent)}"
        self.queued[name] = key
        if held_s:
            self.held.add(key)
        if self.is_fast and not held_s:
            del self.queued[name]
        return name

    async def release(self, key: bytes) -> None:
        self.held -= {key}
        if self.is_fast:
            self.queued = {name: waiting for name, waiting in self.queued.items() if waiting != key}
