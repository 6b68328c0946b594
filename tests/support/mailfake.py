"""A mail store for protocol tests: all of MailStore that sessions use, in dictionaries, every call counted.

``calls`` lists the methods in order; ``fail_next[name]`` is raised by the next call of that method, after
its effect when ``fail_after`` holds the name (a lost COMMIT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from protocols.errors import AuthenticationFailed
from protocols.imap.view import combine
from protocols.ports import Identity, Peer
from storage.bodies import MemoryBody
from storage.errors import AlreadyExists, InvalidName, NotFound, NotPermitted, StorageError
from storage.mime.message import describe
from storage.model import (
    DEFAULT_MAILBOXES,
    INBOX,
    AccountId,
    Appended,
    Content,
    ContentHash,
    ContentId,
    ContentRef,
    Copied,
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
    SpecialUse,
    StagedContent,
    SystemFlag,
    Uid,
    UidValidity,
    Wanted,
)


@dataclass
class Box:
    id: int
    name: str
    uidvalidity: int
    special_use: SpecialUse | None = None
    uidnext: int = 1
    modseq: int = 1
    recent_uid: int = 1
    rows: dict[int, MessageState] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)

    def bump(self) -> ModSeq:
        self.modseq += 1
        return ModSeq(self.modseq)


@dataclass(frozen=True)
class FakeView:
    mailbox: Mailbox
    uids: Sequence[int]
    modseqs: Sequence[int]
    flags: Sequence[int]
    sizes: Sequence[int]
    internaldates: Sequence[int]
    keywords: Mapping[int, frozenset[str]]


class FakeMail:
    """One account, id 1."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_next: dict[str, StorageError] = {}
        self.fail_after: set[str] = set()
        self.boxes: dict[int, Box] = {}
        self.subscribed: set[str] = set()
        self.keys: set[bytes] = set()
        for name, use in DEFAULT_MAILBOXES:
            self._make(name, use)
            self.subscribed.add(name)

    def _make(self, name: str, use: SpecialUse | None = None) -> Box:
        number = len(self.boxes) + 1
        box = self.boxes[number] = Box(number, name, 1000 + number, use)
        return box

    def _count(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail_next and name not in self.fail_after:
            raise self.fail_next.pop(name)

    def _lost(self, name: str) -> None:
        if name in self.fail_next:
            raise self.fail_next.pop(name)

    def _box(self, mailbox_id: int) -> Box:
        if mailbox_id not in self.boxes:
            raise NotFound(str(mailbox_id))
        return self.boxes[mailbox_id]

    def box(self, name: str) -> Box:
        for box in self.boxes.values():
            if box.name == name:
                return box
        raise NotFound(name)

    def _describe(self, box: Box) -> Mailbox:
        rows = box.rows.values()
        return Mailbox(
            id=MailboxId(box.id),
            account_id=AccountId(1),
            name=box.name,
            uidvalidity=UidValidity(box.uidvalidity),
            uidnext=Uid(box.uidnext),
            highestmodseq=ModSeq(box.modseq),
            messages=len(box.rows),
            unseen=sum(not row.flags.system & SystemFlag.SEEN for row in rows),
            deleted=sum(bool(row.flags.system & SystemFlag.DELETED) for row in rows),
            size_bytes=sum(row.size_bytes for row in rows),
            special_use=box.special_use,
            recent_uid=Uid(box.recent_uid),
        )

    # --- mailboxes ---

    async def list_mailboxes(self, account_id: AccountId) -> MailboxList:
        self._count("list_mailboxes")
        found = sorted((self._describe(box) for box in self.boxes.values()), key=lambda m: m.name)
        return MailboxList(tuple(found), frozenset(self.subscribed))

    async def get_mailbox(self, account_id: AccountId, name: str) -> Mailbox:
        self._count("get_mailbox")
        return self._describe(self.box(name))

    async def create_mailbox(
        self, account_id: AccountId, name: str, special_use: SpecialUse | None = None
    ) -> Mailbox:
        self._count("create_mailbox")
        if not name or "//" in name:
            raise InvalidName(name)
        boxes = self.boxes.values()
        if any(box.name == name or (special_use and box.special_use is special_use) for box in boxes):
            raise AlreadyExists(name)
        return self._describe(self._make(name, special_use))

    async def delete_mailbox(self, account_id: AccountId, name: str) -> None:
        self._count("delete_mailbox")
        if name == INBOX:
            raise NotPermitted(name)
        del self.boxes[self.box(name).id]

    async def rename_mailbox(self, account_id: AccountId, old: str, new: str) -> None:
        self._count("rename_mailbox")
        source = self.box(old)
        if any(box.name == new for box in self.boxes.values()):
            raise AlreadyExists(new)
        if old == INBOX:
            self._make(new)
            uids = [Uid(uid) for uid in source.rows]
            await self.move(MailboxId(source.id), uids, MailboxId(self.box(new).id))
            return
        for box in self.boxes.values():
            if box.name == old or box.name.startswith(old + "/"):
                box.name = new + box.name[len(old) :]

    async def set_subscribed(self, account_id: AccountId, name: str, *, subscribed: bool) -> None:
        self._count("set_subscribed")
        (self.subscribed.add if subscribed else self.subscribed.discard)(name)

    async def claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        self._count("claim_recent")
        box = self._box(mailbox_id)
        box.recent_uid = max(box.recent_uid, upto)

    # --- views ---

    async def load_view(self, mailbox_id: MailboxId) -> FakeView:
        self._count("load_view")
        box = self._box(mailbox_id)
        rows = list(box.rows.values())
        return FakeView(
            self._describe(box),
            [row.uid for row in rows],
            [row.modseq for row in rows],
            [int(row.flags.system) for row in rows],
            [row.size_bytes for row in rows],
            [row.internaldate for row in rows],
            {row.uid: row.flags.keywords for row in rows if row.flags.keywords},
        )

    async def changes_since(self, mailbox_id: MailboxId, modseq: ModSeq) -> MailboxChanges:
        self._count("changes_since")
        box = self._box(mailbox_id)
        changed = tuple(row for row in box.rows.values() if row.modseq > modseq)
        gone = tuple(Uid(uid) for uid, at in sorted(box.gone.items()) if at > modseq)
        return MailboxChanges(self._describe(box), changed, gone)

    async def modseqs(self, mailbox_ids: Sequence[MailboxId]) -> dict[MailboxId, ModSeq]:
        self._count("modseqs")
        return {i: ModSeq(self.boxes[i].modseq) for i in mailbox_ids if i in self.boxes}

    # --- messages ---

    def deliver(
        self, name: str = INBOX, flags: Flags | None = None, body: bytes = b"Subject: x\r\n\r\nhi\r\n"
    ) -> Uid:
        """A message from nowhere: no call is counted, nobody is told."""
        box = self.box(name)
        return self._add(box, flags or Flags(), body, 1_000_000_000, box.bump())

    def _add(self, box: Box, flags: Flags, body: bytes, internaldate: int, modseq: ModSeq) -> Uid:
        uid = Uid(box.uidnext)
        box.uidnext += 1
        box.rows[uid] = MessageState(uid, modseq, flags, len(body), internaldate)
        box.bodies[uid] = body
        return uid

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        self._count("append")
        done = []
        for message in messages:
            box = self._box(message.mailbox_id)
            modseq = box.bump()
            when = int(message.internaldate.timestamp()) if message.internaldate else 1_000_000_000
            uid = self._add(box, message.flags, b"".join(staged.frames), when, modseq)
            if message.delivery_key:
                self.keys.add(message.delivery_key)
            done.append(Appended(message.mailbox_id, UidValidity(box.uidvalidity), uid, modseq))
        self._lost("append")
        return done

    async def delivered(self, mailbox_id: MailboxId, delivery_key: bytes) -> bool:
        self._count("delivered")
        return delivery_key in self.keys

    async def fetch(self, mailbox_id: MailboxId, uids: Sequence[Uid], wanted: Wanted) -> list[MessageRow]:
        self._count("fetch")
        box = self._box(mailbox_id)
        return [self._fetched(box, uid, wanted) for uid in sorted(uids) if uid in box.rows]

    def _fetched(self, box: Box, uid: Uid, wanted: Wanted) -> MessageRow:
        content = describe(box.bodies[uid])
        return MessageRow(
            uid,
            b"",
            ContentRef(ContentId(box.id << 32 | uid), content.hash, content.size_bytes, True, None),
            content.header if Wanted.HEADER in wanted else b"",
            content.envelope if Wanted.ENVELOPE in wanted else b"",
            content.structure if Wanted.STRUCTURE in wanted else b"",
        )

    async def store_flags(
        self,
        mailbox_id: MailboxId,
        uids: Sequence[Uid],
        change: FlagChange,
        flags: Flags,
        unchanged_since: ModSeq | None = None,
    ) -> FlagsStored:
        self._count("store_flags")
        box = self._box(mailbox_id)
        present = [box.rows[uid] for uid in uids if uid in box.rows]
        conflicts = [r.uid for r in present if unchanged_since is not None and r.modseq > unchanged_since]
        wanted = [(row, combine(row.flags, change, flags)) for row in present if row.uid not in conflicts]
        wanted = [(row, after) for row, after in wanted if after != row.flags]
        if wanted:
            modseq = box.bump()
            for row, after in wanted:
                box.rows[row.uid] = replace(row, flags=after, modseq=modseq)
        changed = tuple(box.rows[row.uid] for row, _ in wanted)
        return FlagsStored(changed, tuple(conflicts), ModSeq(box.modseq))

    async def expunge(self, mailbox_id: MailboxId, uids: Sequence[Uid] | None) -> Expunged:
        self._count("expunge")
        box = self._box(mailbox_id)
        deleted = [uid for uid, row in box.rows.items() if row.flags.system & SystemFlag.DELETED]
        found = [Uid(uid) for uid in deleted if uids is None or uid in uids]
        self._drop(box, found)
        return Expunged(tuple(found), ModSeq(box.modseq))

    def _drop(self, box: Box, uids: Sequence[Uid]) -> None:
        if uids:
            modseq = box.bump()
            for uid in uids:
                del box.rows[uid]
                box.gone[uid] = modseq

    async def copy(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        self._count("copy")
        return self._copy(self._box(source), uids, self._box(target))

    def _copy(self, box: Box, uids: Sequence[Uid], to: Box) -> Copied:
        pairs = []
        present = [uid for uid in uids if uid in box.rows]
        modseq = to.bump() if present else ModSeq(to.modseq)
        for uid in present:
            row = box.rows[uid]
            pairs.append((uid, self._add(to, row.flags, box.bodies[uid], row.internaldate, modseq)))
        return Copied(UidValidity(to.uidvalidity), tuple(pairs), modseq)

    async def move(self, source: MailboxId, uids: Sequence[Uid], target: MailboxId) -> Copied:
        self._count("move")
        box = self._box(source)
        copied = self._copy(box, uids, self._box(target))
        self._drop(box, [pair[0] for pair in copied.pairs])
        return replace(copied, source_modseq=ModSeq(box.modseq))


class FakeBodies:
    """The bodies that FakeMail holds."""

    def __init__(self, mail: FakeMail) -> None:
        self._mail = mail

    async def open(self, ref: ContentRef, prefix: bytes = b"") -> MemoryBody:
        return MemoryBody(prefix, self._mail.boxes[ref.id >> 32].bodies[ref.id & 0xFFFFFFFF])

    def prefetch(self, _refs: Sequence[ContentRef]) -> None:
        """All are near."""


class FakeSpool:
    def __init__(self) -> None:
        self.data = bytearray()
        self.is_closed = False

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.is_closed = True


class FakeIntake:
    def __init__(self) -> None:
        self.spools: list[FakeSpool] = []
        self.discarded = 0

    def spool(self) -> FakeSpool:
        self.spools.append(FakeSpool())
        return self.spools[-1]

    async def take(self, spool: Any) -> StagedContent:
        body = bytes(spool.data)
        spool.close()
        content = Content(ContentHash(b"\0" * 32), len(body), b"", b"", b"")
        return StagedContent(content, (body,), None, len(body))

    async def discard(self, staged: StagedContent) -> None:
        self.discarded += 1


class FakeAuthenticator:
    """ann@example.org, password secret."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def authenticate(self, protocol: str, peer: Peer, username: str, password: bytes) -> Identity:
        if self.error is not None:
            raise self.error
        if (username, password) != ("ann@example.org", b"secret"):
            raise AuthenticationFailed
        return Identity(AccountId(1), "ann@example.org", "ann@example.org")
