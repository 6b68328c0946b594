"""What the memory stores share: plain objects that play the part of the database.

Methods of the stores never await between reading and writing, so each is atomic on its loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from storage.errors import NotFound
from storage.model import (
    DEFAULT_MAILBOXES,
    INBOX,
    AccountId,
    ActiveScript,
    Content,
    ContentHash,
    ContentId,
    ContentRef,
    Flags,
    Mailbox,
    MailboxId,
    MessageState,
    ModSeq,
    SpecialUse,
    SystemFlag,
    Uid,
    UidValidity,
)


@dataclass(slots=True)
class StoredAccount:
    id: AccountId
    created_at: datetime
    deleted_at: datetime | None = None
    last_uidvalidity: int = 0
    subscribed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    uid: Uid
    modseq: ModSeq
    flags: Flags
    content_id: ContentId
    prefix: bytes
    size_bytes: int
    internaldate: datetime

    def renumbered(self, uid: Uid, modseq: ModSeq) -> StoredMessage:
        return replace(self, uid=uid, modseq=modseq)

    @property
    def state(self) -> MessageState:
        seconds = int(self.internaldate.timestamp() // 1)
        return MessageState(self.uid, self.modseq, self.flags, self.size_bytes, seconds)


@dataclass(slots=True)
class ExpungedMessage:
    """An entry of the log. ``message`` is None when it is purged, moved away or brought back."""

    uid: Uid
    modseq: ModSeq
    expunged_at: datetime
    message: StoredMessage | None


@dataclass(slots=True)
class StoredMailbox:
    id: MailboxId
    account_id: AccountId
    name: str
    uidvalidity: UidValidity
    special_use: SpecialUse | None = None
    deleted_at: datetime | None = None
    uidnext: int = 1
    highestmodseq: int = 1
    recent_uid: int = 1
    messages: dict[Uid, StoredMessage] = field(default_factory=dict)  # ascending: uids only grow
    expunged: dict[Uid, ExpungedMessage] = field(default_factory=dict)

    def snapshot(self) -> Mailbox:
        every = self.messages.values()
        return Mailbox(
            self.id,
            self.account_id,
            self.name,
            self.uidvalidity,
            Uid(self.uidnext),
            ModSeq(self.highestmodseq),
            len(self.messages),
            sum(not message.flags.system & SystemFlag.SEEN for message in every),
            sum(bool(message.flags.system & SystemFlag.DELETED) for message in every),
            sum(message.size_bytes for message in every),
            self.special_use,
            Uid(self.recent_uid),
        )

    def next_modseq(self) -> ModSeq:
        self.highestmodseq += 1
        return ModSeq(self.highestmodseq)

    def add(self, message: StoredMessage, modseq: ModSeq) -> Uid:
        """Under the next uid, which is returned."""
        uid = Uid(self.uidnext)
        self.uidnext += 1
        self.messages[uid] = message.renumbered(uid, modseq)
        return uid

    def forget(self, uid: Uid) -> None:
        """A message that was deleted, alone or with the mailbox, cannot be had back any more."""
        if uid in self.expunged:
            self.expunged[uid].message = None
        else:
            del self.messages[uid]

    def expunge(self, uids: list[Uid], now: datetime, modseq: ModSeq, *, recoverable: bool) -> None:
        for uid in uids:
            message = self.messages.pop(uid)
            self.expunged[uid] = ExpungedMessage(uid, modseq, now, message if recoverable else None)


@dataclass(slots=True)
class StoredContent:
    id: ContentId
    content: Content
    node: str | None
    encoded_bytes: int
    frames: list[bytes]
    staged_at: datetime
    next_attempt_at: datetime
    is_stored: bool = False
    lease_until: datetime | None = None
    lease_node: str | None = None
    attempts: int = 0
    last_error: str = ""

    @property
    def ref(self) -> ContentRef:
        node = None if self.is_stored else self.node
        return ContentRef(self.id, self.content.hash, self.content.size_bytes, self.is_stored, node)

    def move_to(self, node: str | None, frames: Sequence[bytes], encoded_bytes: int) -> bool:
        """From another node's disk; False: it is not on one."""
        if self.is_stored or self.node in {None, node}:
            return False
        self.node, self.frames, self.encoded_bytes = node, list(frames), encoded_bytes
        self.lease_until, self.next_attempt_at, self.attempts = None, self.staged_at, 0
        return True


@dataclass(frozen=True, slots=True)
class StoredScript:
    content: bytes
    is_active: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Answered:
    cause: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SentMail:
    at: dict[bytes, datetime]  # in the order in which it was sent
    expires_at: datetime


@dataclass(slots=True)
class Recovered:
    """A message in the mailbox of the day of its deletion."""

    uid: Uid
    modseq: ModSeq
    day: date
    mailbox_id: MailboxId
    message_uid: Uid
    is_gone: bool = False


@dataclass(slots=True)
class Numbered:
    """What was deleted, as far as somebody has looked."""

    uidvalidity: UidValidity
    uidnext: int = 1
    modseq: int = 1
    entries: list[Recovered] = field(default_factory=list)


@dataclass(slots=True)
class DoomedObject:
    id: int
    content_id: ContentId
    key: str
    is_forgotten: bool = False


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Tables:
    """One database. ``now`` may be replaced to let time pass."""

    def __init__(self, now: Callable[[], datetime] = _utc_now) -> None:
        self.now = now
        self.accounts: dict[AccountId, StoredAccount] = {}
        self.mailboxes: dict[MailboxId, StoredMailbox] = {}
        self.contents: dict[ContentId, StoredContent] = {}
        self.by_hash: dict[ContentHash, StoredContent] = {}
        self.deliveries: dict[tuple[AccountId, bytes], datetime] = {}
        self.scripts: dict[AccountId, dict[str, StoredScript]] = {}
        self.seen: dict[tuple[AccountId, bytes], datetime] = {}
        self.answers: dict[tuple[AccountId, bytes], Answered] = {}
        self.sends: dict[tuple[AccountId, str], SentMail] = {}
        # None: of the account itself
        self.annotations: dict[tuple[AccountId, MailboxId | None], Mapping[str, bytes]] = {}
        self.doomed: list[DoomedObject] = []
        self.numbered: dict[AccountId, Numbered] = {}
        self._last_id = 0

    def next_id(self) -> int:
        """Ids are never reused."""
        self._last_id += 1
        return self._last_id

    def add_account(self) -> StoredAccount:
        account = StoredAccount(AccountId(self.next_id()), self.now())
        self.accounts[account.id] = account
        return account

    def provision(self, account_id: AccountId) -> MailboxId:
        """An account whose id somebody else gave, with the default mailboxes subscribed; its INBOX."""
        account = StoredAccount(account_id, self.now())
        self.accounts[account_id] = account
        for name, use in DEFAULT_MAILBOXES:
            self.add_mailbox(account_id, name, use)
            account.subscribed.add(name)
        return self.of_account(account_id)[INBOX].id

    def usage(self, account_id: AccountId) -> tuple[int, int]:
        """Messages and bytes of an account."""
        boxes = [mailbox.snapshot() for mailbox in self.of_account(account_id).values()]
        return sum(box.messages for box in boxes), sum(box.size_bytes for box in boxes)

    def active_script(self, account_id: AccountId) -> ActiveScript | None:
        for name, script in self.scripts.get(account_id, {}).items():
            if script.is_active:
                return ActiveScript(name, script.content)
        return None

    def add_mailbox(self, account_id: AccountId, name: str, use: SpecialUse | None) -> StoredMailbox:
        account = self.accounts[account_id]
        account.last_uidvalidity = max(account.last_uidvalidity, int(self.now().timestamp())) + 1
        mailbox = StoredMailbox(
            MailboxId(self.next_id()), account_id, name, UidValidity(account.last_uidvalidity), use
        )
        self.mailboxes[mailbox.id] = mailbox
        return mailbox

    def live_account(self, account_id: AccountId) -> StoredAccount:
        account = self.accounts.get(account_id)
        if account is None or account.deleted_at is not None:
            raise NotFound("the account is gone")
        return account

    def known_account(self, account_id: AccountId) -> None:
        """Also a deleted one, until it is purged. Raises NotFound."""
        if account_id not in self.accounts:
            raise NotFound("the account is gone")

    def live(self, mailbox_id: MailboxId) -> StoredMailbox:
        mailbox = self.mailboxes.get(mailbox_id)
        if mailbox is None or mailbox.deleted_at is not None:
            raise NotFound("the mailbox is gone")
        return mailbox

    def recoverable(self, account_id: AccountId) -> list[tuple[datetime, StoredMailbox, StoredMessage]]:
        """What was deleted, and when."""
        found = []
        for box in self.mailboxes.values():
            if box.account_id != account_id:
                continue
            found += [(e.expunged_at, box, e.message) for e in box.expunged.values() if e.message is not None]
            if box.deleted_at is not None:
                found += [(box.deleted_at, box, message) for message in box.messages.values()]
        return found

    def of_account(self, account_id: AccountId) -> dict[str, StoredMailbox]:
        """Live mailboxes by name, in the order of names."""
        found = [
            mailbox
            for mailbox in self.mailboxes.values()
            if mailbox.account_id == account_id and mailbox.deleted_at is None
        ]
        return {mailbox.name: mailbox for mailbox in sorted(found, key=lambda mailbox: mailbox.name)}
