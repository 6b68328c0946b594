"""What clients say in LMTP, as the session hears it. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from storage.dsn import NO_MESSAGE_WISHES, NO_WISHES, MessageDsn, RecipientDsn

from .grammar import Path


@dataclass(frozen=True, slots=True)
class Lhlo:
    name: str


@dataclass(frozen=True, slots=True)
class MailFrom:
    path: Path
    size_bytes: int | None = None  # as declared
    is_binary: bool = False
    has_smtputf8: bool = False
    dsn: MessageDsn = NO_MESSAGE_WISHES


@dataclass(frozen=True, slots=True)
class RcptTo:
    path: Path
    dsn: RecipientDsn = NO_WISHES


@dataclass(frozen=True, slots=True)
class DataRequested:
    """Answer with SEND_DATA or a refusal."""


class Ends(enum.Enum):
    """What ends with a piece of content, and so which reply is owed."""

    NOTHING = "nothing"
    CHUNK = "chunk"  # one reply; a refusal ends the transaction
    MESSAGE = "message"  # one reply for each accepted recipient: ``send_each``


@dataclass(frozen=True, slots=True)
class Content:
    data: bytes
    ends: Ends = Ends.NOTHING


@dataclass(frozen=True, slots=True)
class TransactionDropped:
    """RSET; answered already."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """Answer with TLS_READY (the machine pauses until ``tls_started``) or a refusal."""


@dataclass(frozen=True, slots=True)
class XClient:
    """Who the client is, by a proxy that may say so. Answer with a greeting, and all begins anew, or with a
    refusal."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Quit:
    pass


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The conversation cannot go on; the reason is queued. Close."""


Event = (
    Lhlo
    | MailFrom
    | RcptTo
    | DataRequested
    | Content
    | TransactionDropped
    | StartTls
    | XClient
    | Quit
    | GiveUp
)
OWES_REPLY = (Lhlo, MailFrom, RcptTo, DataRequested, StartTls, XClient, Quit)
