"""The storage contracts. Protocol code is written against these, never against a concrete store.

Rules every implementation keeps, proved by ``tests/contracts``:

* uid and modseq are assigned under the mailbox row lock and rise together; no visible change leaves
  ``highestmodseq`` where it was; counters change in the same statement as what they count.
* Lock order: the account's tree of mailboxes (only to create or rename), mailbox rows by ascending id,
  then delivery keys, then contents. Nothing else is locked while waiting for one of these.
* A method that returns has committed. A method that raises has written nothing, except
  ``CommitUnknown``. A cancelled call leaves no transaction open.
* Reads may come from a replica only when that replica has replayed the caller's own last write to the
  account (``postgres/pool.py``).
* No method's cost grows with the mailbox, except those that say so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from .errors import StorageError
from .model import (
    Account,
    AccountId,
    Appended,
    Content,
    ContentHash,
    ContentId,
    ContentRef,
    Copied,
    Credential,
    DeletedMessage,
    Expunged,
    FlagChange,
    Flags,
    FlagsStored,
    Mailbox,
    MailboxChanges,
    MailboxId,
    MailboxList,
    MessageRow,
    MessageState,
    ModSeq,
    NewMessage,
    Recipient,
    SpecialUse,
    StagedContent,
    StagingLevel,
    Uid,
    UploadLease,
    Wanted,
)

if TYPE_CHECKING:
    import asyncio
    import mmap

# An MTA that lost our reply tries the same bytes again for at most its queue lifetime (5 days is the
# usual default); after this window equal bytes are a new message.
RETRY_WINDOW = timedelta(days=7)


class MailStore(Protocol):
    """Mailboxes and messages."""

    # --- mailboxes ---

    async def list_mailboxes(self, account_id: AccountId) -> MailboxList:
        """All live mailboxes with counters, and subscriptions. One read, O(mailboxes)."""
        ...

    async def get_mailbox(self, account_id: AccountId, name: str) -> Mailbox:
        """One read. Raises NotFound."""
        ...

    async def create_mailbox(
        self, account_id: AccountId, name: str, special_use: SpecialUse | None = None
    ) -> Mailbox:
        """Creates missing parents too (RFC 9051 §6.3.4).

        A name that was deleted before comes back with a greater uidvalidity.

        Raises:
            AlreadyExists: of the name, or of the special use.
            InvalidName: empty component, control character, over 255 characters a component or 1,000 in all.
        """
        ...

    async def delete_mailbox(self, account_id: AccountId, name: str) -> None:
        """Two-phase: O(1) here, the purge does the rest. Children stay (RFC 9051 §6.3.5).

        Raises NotFound; NotPermitted for INBOX.
        """
        ...

    async def rename_mailbox(self, account_id: AccountId, old: str, new: str) -> None:
        """Renames children too, also those of a deleted mailbox; INBOX stays and its messages move to ``new``
        (RFC 9051 §6.3.6).

        Raises NotFound, AlreadyExists, InvalidName (also: into its own subtree).
        """
        ...

    async def set_subscribed(self, account_id: AccountId, name: str, *, subscribed: bool) -> None:
        """By name; the mailbox need not exist. Idempotent. Raises InvalidName."""
        ...

    async def claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        """Messages below ``upto`` have been announced to a read-write session. Never goes back."""
        ...

    # --- views ---

    async def load_view(self, mailbox_id: MailboxId) -> MailboxView:
        """The mailbox and the state of all its live messages in one consistent read. O(messages)."""
        ...

    async def load_named_view(self, account_id: AccountId, name: str) -> MailboxView:
        """``load_view`` by name, for a reader that opens a mailbox once and keeps no view (POP3).

        One consistent read, O(messages). Raises NotFound.
        """
        ...

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        """One indexed read, O(changes). Raises NotFound when the mailbox is gone."""
        ...

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]:
        """Highestmodseq of many mailboxes in one read; deleted ones are absent."""
        ...

    # --- messages ---

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        """Add one content to one or more mailboxes, body and metadata in one commit.

        Results are in the order of ``messages``. At most 4 statements for bodies of one frame,
        one statement more per further frames batch. When the same bytes wait on the disk of another node,
        they wait where ``staged`` has them from now on: an acknowledgement never rests on a foreign disk.
        A duplicate, and bytes that another process brings at the same time, cost a ``take_over`` more.

        Raises:
            NotFound: one of the mailboxes is gone; nothing was written.
            StagingFull, Unavailable: nothing was written.
            CommitUnknown: use ``delivered`` when the messages carried delivery keys.
        """
        ...

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        """Whether a message with that key was committed for the mailbox's account (primary read)."""
        ...

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        """Rows of live messages, ascending by uid; uids that are gone are absent. One read a call;
        callers pass at most 1,000 uids."""
        ...

    async def store_flags(
        self,
        mailbox_id: MailboxId,
        uids: Sequence[Uid],
        change: FlagChange,
        flags: Flags,
        unchanged_since: ModSeq | None = None,
    ) -> FlagsStored:
        """One statement for the whole set, checked and written under the mailbox lock
        (RFC 7162 §3.1.3). Messages whose flags would not differ are neither written nor returned."""
        ...

    async def expunge(self, mailbox_id: MailboxId, uids: Sequence[Uid] | None) -> Expunged:
        """Remove messages that carry \\Deleted: all of them, or those among ``uids``.

        Two-phase: they are recoverable until the purge.
        """
        ...

    async def remove(self, mailbox_id: MailboxId, uids: Sequence[Uid]) -> Expunged:
        """Expunge exactly these messages, whatever their flags (POP3 QUIT). Uids that are gone are skipped.

        One statement; two-phase like ``expunge``. Raises NotFound when the mailbox is gone.
        """
        ...

    async def copy(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        """Flags, internaldate and content are kept; no body moves. All or nothing."""
        ...

    async def move(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        """Copy and expunge in one commit (RFC 6851)."""
        ...

    # --- recovery ---

    async def list_deleted(
        self,
        account_id: AccountId,
        mailbox: str | None = None,
        limit: int = 1000,
        *,
        since: datetime | None = None,
    ) -> list[DeletedMessage]:
        """Expunged or with a deleted mailbox, not yet purged; what was deleted last comes first.

        ``mailbox`` is the name of a mailbox that is there, or was. ``since``: deleted then or later.
        """
        ...

    async def undelete(
        self, mailbox_id: MailboxId, uids: Sequence[Uid], into: MailboxId | None = None
    ) -> Copied:
        """Bring recoverable messages back under new uids, without \\Deleted: into their own mailbox, or into
        another one of the same account.

        The messages of a mailbox that was deleted need ``into``. Uids that cannot be had back (any more) are
        skipped, so a repetition does nothing. Raises NotFound when the target is gone.
        """
        ...


class MailboxView(Protocol):
    """The bulk answer of load_view; columns are parallel and ascending by uid."""

    @property
    def mailbox(self) -> Mailbox: ...

    @property
    def uids(self) -> Sequence[int]: ...

    @property
    def modseqs(self) -> Sequence[int]: ...

    @property
    def flags(self) -> Sequence[int]:
        """SystemFlag bits."""
        ...

    @property
    def sizes(self) -> Sequence[int]: ...

    @property
    def internaldates(self) -> Sequence[int]: ...

    @property
    def keywords(self) -> Mapping[int, frozenset[str]]:
        """By uid; messages without keywords are absent."""
        ...


class RecoveredMail(Protocol):
    """Recoverable messages of an account as read-only mailboxes, one for each day of deletion (UTC).

    Such a mailbox has the id ``recovery.day_id(account, day)``. Messages get uids when a mailbox is first
    looked at after their deletion; they keep them, and no uid is ever used again. Of what was restored or
    purged the next look says that it is expunged. A look costs one pass over what is recoverable of that day.
    """

    root: str  # the name that all of them begin with

    async def mailboxes(self, account_id: AccountId) -> tuple[Mailbox, ...]:
        """By name; O(recoverable messages)."""
        ...

    async def get(self, account_id: AccountId, day: date) -> Mailbox:
        """Raises NotFound when nothing was deleted on that day."""
        ...

    async def load_view(self, mailbox_id: MailboxId) -> MailboxView:
        """Raises NotFound, as ``get``."""
        ...

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges: ...

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> Mapping[MailboxId, ModSeq]: ...

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]: ...

    async def copy(self, mailbox_id: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        """As ``MailStore.copy``, without \\Deleted. What is copied stays recoverable, too."""
        ...


class UploadStore(Protocol):
    """The upload queue: staged contents on their way to the object store."""

    async def lease(self, node: str, limit: int, lease_s: float) -> list[UploadLease]:
        """Lease due staged contents (SKIP LOCKED) that are in the database or on this node's disk.

        A lease that ran out is free again: that is how a dead uploader's work is taken over.
        """
        ...

    async def reclaim(self, node: str) -> int:
        """Free the leases of this node's uploader when it has nothing under way (at its start, after it lost
        the database in a step); how many. Uploading something twice is harmless, and wasteful."""
        ...

    async def staged_frames(self, content_id: ContentId) -> list[bytes] | None:
        """Encoded bytes from the database; None when they are not there (uploaded, purged, on a disk)."""
        ...

    async def staged_frames_of(self, content_ids: Sequence[ContentId]) -> dict[ContentId, list[bytes]]:
        """The same for several in one read; those that are not there are absent. The caller bounds how
        much that is."""
        ...

    async def mark_stored(self, content_ids: Sequence[ContentId]) -> list[ContentId]:
        """The objects are durable: mark them and drop the staged frames, in one commit.

        Returns those that were still known; of the others the caller's object is an orphan that has
        been queued for deletion here.
        """
        ...

    async def release(self, content_id: ContentId, error: str, retry_in_s: float, *, permanent: bool) -> None:
        """Give a lease back after a failure. Only a permanent failure counts as an attempt."""
        ...

    async def staging_level(self) -> StagingLevel: ...

    async def locate(self, content_ids: Sequence[ContentId]) -> list[ContentRef]:
        """Current whereabouts (primary read), for a reader whose reference has grown stale."""
        ...

    async def restore_turns(self, content_ids: Sequence[ContentId]) -> None:
        """What was given back because the store was away is due now, and its age decides its turn again.
        Leased and stored ones stay as they are."""
        ...

    async def find(self, hashes: Sequence[ContentHash]) -> dict[ContentHash, ContentRef]:
        """The contents of these bytes and where they are (primary read); unknown ones are absent."""
        ...

    async def take_over(
        self, content_hash: ContentHash, node: str | None, frames: Sequence[bytes], encoded_bytes: int
    ) -> bool:
        """A body that waits on the disk of another node is durable here, too: on the disk of ``node``, or
        with None in the database, which these frames go to. From now on it is uploaded from here.

        False: nothing of these bytes waits on another disk; nothing was written.
        """
        ...


class Staging(Protocol):
    """The landing zone of bodies on their way to the object store."""

    async def put(self, content: Content, frames: Sequence[bytes]) -> StagedContent:
        """Make ready for the append. Raises StagingFull, Unavailable."""
        ...

    async def get(self, ref: ContentRef) -> list[bytes] | None:
        """Encoded bytes in pieces; None when this staging does not have them. Raises Unavailable."""
        ...

    async def get_many(self, refs: Sequence[ContentRef]) -> dict[ContentId, list[bytes]]:
        """``get`` for several; those that this staging does not have are absent. The caller bounds how
        much that is."""
        ...

    async def pending(self) -> list[ContentHash]:
        """Bodies found here that no append can be about to refer to any more: those that ``find`` does not
        show on a disk are nobody's. Empty where the database keeps the books."""
        ...

    async def held(self) -> list[ContentHash]:
        """The same, of whatever age."""
        ...

    async def remove(self, content_hash: ContentHash) -> bool:
        """The body is in the object store, or nobody's. False: it may be in use by a delivery right now
        and was kept; ask again later."""
        ...


class PurgeStore(Protocol):
    """What the cleaner asks. Every call is one bounded batch and says how much it did: less than ``limit``
    means that nothing more is due now."""

    async def expire(self, older_than: timedelta, limit: int) -> int:
        """Expunge live messages whose internaldate is older (max_age_restriction); how many."""
        ...

    async def purge_messages(self, grace: timedelta, limit: int) -> int:
        """Drop expunged messages, and those of deleted mailboxes and accounts, past the grace period."""
        ...

    async def purge_days(self, grace: timedelta, limit: int) -> int:
        """Drop the numbers that ``RecoveredMail`` gave to messages that are purged, of days past the grace
        period."""
        ...

    async def purge_contents(self, limit: int) -> int:
        """Drop contents no message refers to (re-checked under the content's lock, skipping leased
        ones) and queue their objects for deletion."""
        ...

    async def due(self, grace: timedelta, max_age: timedelta | None) -> Mapping[str, int]:
        """How much the calls above would find: expired, accounts, mailboxes, messages, contents (of which
        some may be in use), objects, delivery_keys. Counts rows, so its cost grows with them."""
        ...

    async def doomed(self, limit: int) -> list[tuple[int, str]]:
        """(id, object key) of objects to delete; deleting twice is harmless as keys are never reused."""
        ...

    async def forget_doomed(self, ids: Sequence[int]) -> None: ...

    async def purge_delivery_keys(self, limit: int) -> int:
        """Drop delivery keys older than RETRY_WINDOW."""
        ...

    async def purge_send_log(self, limit: int) -> int:
        """Drop what the send log has no use for any more (``storage.sending``); at most twice ``limit``."""
        ...


class AccountStore(Protocol):
    """Accounts and their credentials. Addresses are canonical (``storage.addresses``)."""

    async def login(self, address: str) -> tuple[Credential, str] | None:
        """The credential of a live account and the account's primary address; one read."""
        ...

    async def recipient(self, address: str) -> Recipient | None:
        """One read. None: no live account has that address."""
        ...

    async def addresses(self, account_id: AccountId) -> frozenset[str]:
        """All of a live account; empty when it is gone. One read."""
        ...

    async def create_account(self, address: str, password_hash: str) -> Account:
        """With DEFAULT_MAILBOXES, all subscribed, in one commit. Raises AlreadyExists."""
        ...

    async def accounts(
        self, domain: str | None = None, *, include_deleted: bool = False
    ) -> list[Account]: ...

    async def account(self, address: str, *, include_deleted: bool = False) -> Account:
        """Raises NotFound."""
        ...

    async def delete_account(self, address: str) -> None:
        """Soft: addresses stop working, data stays until the purge. Raises NotFound."""
        ...

    async def restore_account(self, address: str) -> None:
        """Raises NotFound; AlreadyExists when an address was given to another account meanwhile."""
        ...

    async def add_credential(self, primary: str, address: str, password_hash: str) -> Credential: ...

    async def delete_credential(self, address: str) -> None:
        """Raises NotFound; NotPermitted for the primary one."""
        ...

    async def set_password(self, address: str, password_hash: str) -> None:
        """Raises NotFound."""
        ...

    async def make_primary(self, address: str) -> None: ...

    async def upgrade_hash(self, credential: Credential, password_hash: str) -> bool:
        """Replace the hash if it is still the one in ``credential``."""
        ...


@dataclass(frozen=True, slots=True)
class BlobInfo:
    key: str
    size_bytes: int
    modified_at: datetime


class BlobStore(Protocol):
    """Encoded bytes by key. Keys are written once and never reused, so every call may be repeated."""

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        """Durable when it returns. Raises Unavailable, StagingFull (no space)."""
        ...

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        """``put`` for several, which may share what makes them durable; all are when it returns.

        For each key the size that the store tells of it afterwards (-1: it has none), or why it was not
        put. ``slots`` bounds what runs at once, of this call and of others.
        """
        ...

    async def get(self, key: str) -> bytes:
        """The whole object. Raises NotFound, Unavailable."""
        ...

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in pieces of bounded size, for large ones. Raises as get."""
        ...

    async def head(self, key: str) -> BlobInfo | None: ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Absent keys are fine."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]: ...


class Body(Protocol):
    """The decoded bytes of a content or message, opened for reading."""

    size_bytes: int

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes start..stop (clamped), checked against the content hash when read as a whole."""
        ...

    def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The same in pieces of at most 256 KiB."""
        ...


class BodySource(Protocol):
    """Finds a body wherever it is: memory, local cache, staging, object store (in that order)."""

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> Body:
        """Raises Unavailable (try later, never an empty body), Corrupt, NotFound."""
        ...

    def prefetch(self, refs: Sequence[ContentRef]) -> None:
        """A hint that these will be opened soon, in this order; bounded, best effort."""
        ...


class Spool(Protocol):
    """Receives a body piecewise: in memory up to 1 MiB, then in an unlinked temporary file."""

    size_bytes: int

    def write(self, data: bytes) -> None:
        """Raises StagingFull when the disk is full; the spool then only takes close()."""
        ...

    def buffer(self) -> bytes | mmap.mmap:
        """All that was written; stays valid after ``close``. Raises Unavailable."""
        ...

    def close(self) -> None: ...


class Intake(Protocol):
    """Turns received bytes into a staged content: hash, scan, encode, and make durable per policy."""

    def spool(self) -> Spool: ...

    async def take(self, spool: Spool) -> StagedContent:
        """Consumes the spool. Raises StagingFull, Unavailable."""
        ...

    async def discard(self, staged: StagedContent) -> None:
        """The append did not happen for certain; only an age-bounded sweep may still be needed."""
        ...


__all__ = [
    "RETRY_WINDOW",
    "AccountStore",
    "BlobInfo",
    "BlobStore",
    "Body",
    "BodySource",
    "Intake",
    "MailStore",
    "MailboxView",
    "MessageState",
    "PurgeStore",
    "RecoveredMail",
    "Spool",
    "Staging",
    "UploadStore",
]
