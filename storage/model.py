"""The vocabulary of stored mail: identifiers with types of their own, and plain frozen records.

A *message* is one entry of one mailbox: a small per-recipient ``prefix`` (the trace headers that
delivery added, possibly empty) followed by a *content*, the bytes as they were received. Contents are
shared by every message that carries the same bytes, in whatever mailbox or account: they are stored,
scanned and uploaded once. Whatever is computed from a message at delivery (raw header block, envelope,
part structure) belongs to the content; offsets in it count from the start of the content, so a reader
of a whole message adds ``len(prefix)``.

A *staged* content has its body in the landing zone (database or one node's disk) and not yet in the
object store. Its encoded bytes are the same in staging, cache and object store (``objects/codec.py``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import NewType, TypeAlias

AccountId = NewType("AccountId", int)
MailboxId = NewType("MailboxId", int)
ContentId = NewType("ContentId", int)
CredentialId = NewType("CredentialId", int)
Uid = NewType("Uid", int)  # 1 .. 2**32 - 1, RFC 9051 §2.3.1.1
UidValidity = NewType("UidValidity", int)  # 1 .. 2**32 - 1
ModSeq = NewType("ModSeq", int)  # 1 .. 2**63 - 1, RFC 7162 §3.1
ContentHash = NewType("ContentHash", bytes)  # SHA-256 of the content, 32 bytes

Buffer: TypeAlias = bytes | bytearray | memoryview

DELIMITER = "/"
INBOX = "INBOX"


class SystemFlag(enum.IntFlag):
    """The five stored system flags (RFC 9051 §2.3.2); ``\\Recent`` is never stored with a message."""

    NONE = 0
    SEEN = 1
    ANSWERED = 2
    FLAGGED = 4
    DELETED = 8
    DRAFT = 16


@dataclass(frozen=True, slots=True)
class Flags:
    """All flags of one message: the system bits and the user keywords, spelled as first stored."""

    system: SystemFlag = SystemFlag.NONE
    keywords: frozenset[str] = frozenset()


class FlagChange(enum.Enum):
    """How STORE combines the given flags with those present."""

    REPLACE = "replace"
    ADD = "add"
    REMOVE = "remove"


class SpecialUse(enum.Enum):
    """RFC 6154 §2 attributes that a mailbox may carry; at most one mailbox of an account each."""

    ARCHIVE = "archive"
    DRAFTS = "drafts"
    JUNK = "junk"
    SENT = "sent"
    TRASH = "trash"


# Every new account has these beside INBOX.
DEFAULT_MAILBOXES: tuple[tuple[str, SpecialUse | None], ...] = (
    (INBOX, None),
    ("Drafts", SpecialUse.DRAFTS),
    ("Sent", SpecialUse.SENT),
    ("Archive", SpecialUse.ARCHIVE),
    ("Junk", SpecialUse.JUNK),
    ("Trash", SpecialUse.TRASH),
)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One mailbox with its counters as of one instant."""

    id: MailboxId
    account_id: AccountId
    name: str  # decoded, hierarchy by DELIMITER, INBOX always spelled so
    uidvalidity: UidValidity
    uidnext: Uid
    highestmodseq: ModSeq
    messages: int
    unseen: int
    deleted: int
    size_bytes: int
    special_use: SpecialUse | None
    recent_uid: Uid  # messages from this uid on have not been announced to any read-write session
    is_read_only: bool = False  # of a namespace that takes no changes


@dataclass(frozen=True, slots=True)
class MailboxList:
    """All mailboxes of an account and the names it subscribes to (which may not exist)."""

    mailboxes: tuple[Mailbox, ...]  # by name
    subscribed: frozenset[str]


@dataclass(frozen=True, slots=True)
class MessageState:
    """What the in-memory view knows of one message."""

    uid: Uid
    modseq: ModSeq
    flags: Flags
    size_bytes: int  # prefix and content
    internaldate: int  # seconds since the epoch, UTC


@dataclass(frozen=True, slots=True)
class MailboxChanges:
    """All that happened in a mailbox after a modseq: the mailbox now, rows changed or new, uids gone."""

    mailbox: Mailbox
    changed: tuple[MessageState, ...]  # by uid; new messages included
    expunged: tuple[Uid, ...]  # by uid


@dataclass(frozen=True, slots=True)
class Content:
    """Facts of a content, computed once when it is taken in."""

    hash: ContentHash
    size_bytes: int
    header: bytes  # raw header block, with the empty line that ends it where there is one
    envelope: bytes  # storage.mime.envelope.encode_envelope
    structure: bytes  # storage.mime.structure.encode_structure


@dataclass(frozen=True, slots=True)
class StagedContent:
    """A content made ready for the transaction that will refer to it.

    ``frames`` are its encoded bytes to be written inside that transaction (staging ``database``);
    they are empty when the body is already durable on the disk of ``node`` (staging ``disk``).
    """

    content: Content
    frames: tuple[bytes, ...]
    node: str | None
    encoded_bytes: int


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One message to append to one mailbox."""

    mailbox_id: MailboxId
    prefix: bytes = b""
    flags: Flags = Flags()
    internaldate: datetime | None = None  # aware; None: the time of the commit
    delivery_key: bytes | None = None  # 32 bytes; a second append with it within RETRY_WINDOW is a no-op


@dataclass(frozen=True, slots=True)
class Appended:
    """Where one message landed. ``duplicate``: a message of that delivery_key had been stored before;
    nothing was written for it now and ``uid`` is 0."""

    mailbox_id: MailboxId
    uidvalidity: UidValidity
    uid: Uid
    modseq: ModSeq
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class ContentRef:
    """Where the bytes of a content are to be had."""

    id: ContentId
    hash: ContentHash
    size_bytes: int
    is_stored: bool  # in the object store; otherwise staged
    staged_node: str | None  # the node whose disk has it, None: the database


class Wanted(enum.Flag):
    """Columns a fetch needs; the content reference and prefix always come along."""

    REFERENCE = 0
    HEADER = enum.auto()
    ENVELOPE = enum.auto()
    STRUCTURE = enum.auto()


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One message as fetched; columns not asked for are empty."""

    uid: Uid
    prefix: bytes
    ref: ContentRef
    header: bytes = b""  # of the content; the message's own is prefix + header
    envelope: bytes = b""
    structure: bytes = b""


@dataclass(frozen=True, slots=True)
class FlagsStored:
    """Outcome of a flag change: new states of what changed, and uids refused by UNCHANGEDSINCE."""

    changed: tuple[MessageState, ...]
    conflicts: tuple[Uid, ...]
    highestmodseq: ModSeq


@dataclass(frozen=True, slots=True)
class Expunged:
    uids: tuple[Uid, ...]  # ascending
    highestmodseq: ModSeq


@dataclass(frozen=True, slots=True)
class Copied:
    """Pairs of source and target uids, ascending by source; empty when nothing was there to copy."""

    uidvalidity: UidValidity
    pairs: tuple[tuple[Uid, Uid], ...]
    target_modseq: ModSeq
    source_modseq: ModSeq | None = None  # of a move


@dataclass(frozen=True, slots=True)
class DeletedMessage:
    """A message that is still recoverable: it was expunged, or its mailbox was deleted."""

    mailbox_id: MailboxId
    mailbox_name: str
    uid: Uid
    size_bytes: int
    internaldate: datetime
    expunged_at: datetime  # or when the mailbox was deleted
    envelope: bytes
    is_mailbox_deleted: bool = False


# --- accounts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credential:
    """One address of an account, with its own password hash."""

    id: CredentialId
    account_id: AccountId
    address: str  # canonical: lower case, no detail
    password_hash: str
    is_primary: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    id: AccountId
    primary_address: str
    created_at: datetime
    deleted_at: datetime | None
    credentials: tuple[Credential, ...]
    messages: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ActiveScript:
    """The Sieve script that filters an account's mail."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Recipient:
    """What delivery must know of a recipient; one read."""

    account_id: AccountId
    primary_address: str
    inbox_id: MailboxId
    script: ActiveScript | None = None


# --- the way of a body to the object store --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UploadLease:
    """One staged content leased to one uploader until ``lease_until``."""

    ref: ContentRef
    attempts: int
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class StagingPlace:
    """What waits in one place."""

    node: str | None  # on that node's disk; None: in the database
    contents: int
    encoded_bytes: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class StagingLevel:
    """How much waits for the object store, everywhere."""

    contents: int
    encoded_bytes: int
    oldest_age_s: float
    places: tuple[StagingPlace, ...] = ()  # those where something waits

    def bytes_at(self, node: str | None) -> int:
        return sum(place.encoded_bytes for place in self.places if place.node == node)
