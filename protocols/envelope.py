"""How one message came in, for whom it is, and what each of them may be told. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from storage.dsn import NO_MESSAGE_WISHES, NO_WISHES, MessageDsn, RecipientDsn
from storage.errors import StorageError
from storage.model import Recipient


class MailLoop(Exception):
    """The message has been delivered to this address before, or has passed too many hosts."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A recipient of the envelope and whose INBOX that is."""

    address: str  # canonical, detail included
    detail: str
    recipient: Recipient
    dsn: RecipientDsn = NO_WISHES


@dataclass(frozen=True, slots=True)
class Returned:
    """A recipient that is no account: a report about mail that we sent on under a sender of our own making
    (``sending.srs``) goes back to ``address``."""

    address: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a message came in; for trace headers and the delivery key."""

    reverse_path: str  # as given, without angle brackets; empty for the null path
    helo: str
    client_ip: str
    hostname: str  # ours
    protocol: str  # RFC 3848: LMTP, LMTPS, UTF8LMTP, UTF8LMTPS
    session_id: str
    received_at: datetime  # aware
    client_name: str = ""  # of its address in the DNS, where a proxy has told it
    dsn: MessageDsn = NO_MESSAGE_WISHES

    @property
    def takes_utf8(self) -> bool:
        """The client may be told what is not ASCII (RFC 6531 §3.5)."""
        return self.protocol.startswith("UTF8")


@dataclass(frozen=True, slots=True)
class Refused:
    """The recipient's script rejects the message; ``reason`` is its author's text."""

    reason: str
    is_utf8: bool = False  # the client reads replies that are not ASCII


Outcome = StorageError | MailLoop | Refused | None  # None: durable, or discarded by a script
Resolve = Callable[[str], Awaitable[Destination | None]]
