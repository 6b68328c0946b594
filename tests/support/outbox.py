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
        self.sent: list[Submitted] = []
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
    ) -> str:
        if self.failure is not None:
            raise self.failure
        whole = message if isinstance(message, bytes) else b"".join(message)
        if not (key and any(each.key == key for each in self.sent)):
            self.sent.append(Submitted(envelope_from, tuple(recipients), whole, kind, account, key, dsn))
        return f"fake-{len(self.sent)}"
