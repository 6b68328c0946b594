"""An outbox that keeps what it was given, for tests of what submits mail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from protocols.ports import MailKind
from storage.dsn import NO_REQUEST, DsnRequest
from storage.errors import StorageError
from storage.model import AccountId
from storage.sending import HandoverLog

_NAMES = count(1)  # no two outboxes give the same


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
        self.sent: list[Submitted] = []  # all that was ever taken to be relayed
        self.queued: dict[str, bytes] = {}  # what waits: key by name
        self.held: dict[str, Submitted] = {}  # by name; not among the sent
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
        name = f"fake-{next(_NAMES)}"
        whole = message if isinstance(message, bytes) else b"".join(message)
        mail = Submitted(envelope_from, tuple(recipients), whole, kind, account, key, dsn)
        if held_s:
            self.held[name] = mail
            return name
        for other, waiting in self.queued.items():
            if key and waiting == key:
                return other
        self.sent.append(mail)
        if not self.is_fast:
            self.queued[name] = key
        return name

    async def release(self, name: str) -> None:
        if name in self.held:
            self.sent.append(self.held.pop(name))

    async def withdraw(self, name: str) -> None:
        self.held.pop(name, None)

    async def end_holds(self, claims: HandoverLog) -> None:
        """Their time is over: whoever empties the queue claims what is held."""
        for name, mail in list(self.held.items()):
            assert mail.account is not None
            won = await claims.claim_handover(mail.account, {mail.key: name})
            await (self.release(name) if won else self.withdraw(name))
