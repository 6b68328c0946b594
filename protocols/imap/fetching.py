"""Running a FETCH: what is read, in which portions, and what becomes of messages that cannot be read.

Theory: items are sorted by what they need (``fetchplan``). Values from memory and row columns are made
for many messages at once (``fetchlines``); bodies go message by message (``bodyparts``). Whatever is
asked, at most ``ROWS`` rows and ``HELD_BYTES`` of bodies are held, and the client's own speed holds the
reading back (``pacing``).

A message is answered wholly or not at all: its values are at hand, or its bodies open, before the first
octet of its response is written. One that cannot be had is left out, the others go on, and the tagged
reply tells.

References: RFC 9051 §6.4.5 and §7.5.2; RFC 7162 §3.1.4; RFC 5530 §3 (EXPUNGEISSUED, UNAVAILABLE).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import TYPE_CHECKING, Final

from protocols.memory import OverMemory
from protocols.ports import MailboxChanged
from protocols.rowsizes import ROW_BYTES, size_of_row, size_of_rows
from storage.errors import Corrupt, NotFound, Unavailable
from storage.model import FlagChange, Flags, FlagsStored, MailboxId, MessageRow, SystemFlag, Uid, Wanted

from . import events
from .bodyparts import MessageReader, Streamed, UnknownEncoding, has_whole_header
from .columns import Messages, present
from .fetchlines import FetchLines
from .items import ViewItem
from .pacing import BulkWriter

if TYPE_CHECKING:
    from protocols.memory import Held

    from .fetchplan import FetchPlan
    from .seqset import SavedResult, SeqSet, UidSet
    from .session import ImapSession

log = logging.getLogger("sora.imap")

ROWS: Final = 1_000  # of one read
LINES: Final = 200  # rendered between two looks at the loop, at most
PART_BYTES: Final = 4 * 1024 * 1024  # of rows rendered between two looks, times the items that want them
VIEW_LINES: Final = 4_000  # the same where only memory is looked at
AHEAD: Final = 16  # bodies asked for in advance, at least
SEEN: Final = Flags(SystemFlag.SEEN)


@dataclass(slots=True)
class Outcome:
    """How many messages were asked for, and why some were not answered."""

    asked: int = 0
    told: int = 0
    unavailable: int = 0
    corrupt: int = 0
    unknown_encoding: int = 0
    over_memory: int = 0
    unread: list[Uid] = field(default_factory=list)  # set \\Seen by this command, then not answered

    @property
    def gone(self) -> int:
        left_out = self.unavailable + self.corrupt + self.unknown_encoding + self.over_memory
        return self.asked - self.told - left_out


@dataclass(frozen=True, slots=True)
class LastRead:
    """The message a client is reading in partial fetches: its row is not read nor its body opened again.

    Messages never change, so this cannot be out of date; who may see it is still decided by the view.
    """

    mailbox_id: MailboxId
    wanted: Wanted
    reader: MessageReader

    def serves(self, mailbox_id: MailboxId, uid: int, wanted: Wanted) -> bool:
        return self.mailbox_id == mailbox_id and self.reader.row.uid == uid and wanted in self.wanted


def _parts(
    portion: Sequence[tuple[int, Uid]], rows: Mapping[int, MessageRow], items: int
) -> Iterator[Sequence[tuple[int, Uid]]]:
    """Pieces of a portion whose responses fit into memory however large headers are and often asked for."""
    start = size = 0
    for position, (_seq, uid) in enumerate(portion):
        row = rows[uid]
        weight = size_of_row(row) * items
        if position > start and (size + weight > PART_BYTES or position - start == LINES):
            yield portion[start:position]
            start, size = position, 0
        size += weight
    if start < len(portion):
        yield portion[start:]


class FetchRun:
    """One FETCH over the selected mailbox."""

    def __init__(self, session: ImapSession, plan: FetchPlan) -> None:
        self._session = session
        self._view = session.view
        self._mailbox_id = session.view.mailbox.id
        self._plan = plan
        self._writer = BulkWriter(session.connection)
        self._marked: frozenset[int] = frozenset()  # of this portion, set \Seen by this command
        self._untold: set[Uid] = set()  # of these, not answered yet
        self.outcome = Outcome()

    async def run(self, numbers: SeqSet | UidSet | SavedResult, changed_since: int | None = None) -> None:
        """Write the responses for these messages, ascending.

        Raises PeerError before anything is written, and what storage raises for rows and flags; what
        happens to single bodies is in ``outcome``.
        """
        size = VIEW_LINES if self._plan.wanted is None else ROWS
        portions = self._view.portions(numbers, size)
        if ViewItem.FLAGS in self._plan.flat:
            self._session.write_new_keywords()
        try:
            for portion in portions:
                await self._portion(portion if changed_since is None else self._since(portion, changed_since))
        finally:
            await self._take_back_seen()
        await self._writer.flush()

    async def _portion(self, portion: Sequence[tuple[int, Uid]]) -> None:
        self.outcome.asked += len(portion)
        if self._plan.wanted is not None:
            with self._session.memory.hold(len(portion) * ROW_BYTES) as held:
                await self._from_rows(portion, self._plan.wanted, held)
            return
        self._add_responses(present(self._view, portion), {}, self._plan)
        await self._writer.flush()

    def _since(self, portion: Sequence[tuple[int, Uid]], modseq: int) -> Sequence[tuple[int, Uid]]:
        """RFC 7162 §3.1.4.1: those that changed after ``modseq``."""
        messages = present(self._view, portion)
        changed = map(modseq.__lt__, messages.pick(self._view.shared.modseqs))
        return list(compress(zip(messages.seqs, map(Uid, messages.uids), strict=True), changed))

    async def _from_rows(self, portion: Sequence[tuple[int, Uid]], wanted: Wanted, held: Held) -> None:
        if self._plan.marks_seen and not self._view.read_only:
            await self._mark_seen(present(self._view, portion))
        try:
            await self._answer_from_rows(portion, wanted, held)
        except asyncio.CancelledError:  # by the time limit, for instance
            self.outcome.unread += self._untold
            raise

    async def _answer_from_rows(self, portion: Sequence[tuple[int, Uid]], wanted: Wanted, held: Held) -> None:
        rows = await self._rows(present(self._view, portion).uids, wanted)
        plan = self._plan
        cut_short = [uid for uid, row in rows.items() if not has_whole_header(row)]
        if Wanted.HEADER in wanted and cut_short:
            rows.update(await self._rows(cut_short, wanted | Wanted.STRUCTURE))
            plan = plan.deepened()
        portion = [pair for pair in portion if pair[1] in rows]
        size_bytes = size_of_rows(rows.values())
        held.becomes(size_bytes + min(size_bytes * len(plan.flat), PART_BYTES))  # what is rendered of them
        if plan.deep:
            await self._add_deep(portion, rows, plan)
            return
        for part in _parts(portion, rows, len(plan.flat)):
            self._add_readable(part, rows, plan)
            await self._writer.flush()

    async def _rows(self, uids: Sequence[int], wanted: Wanted) -> dict[int, MessageRow]:
        last = self._session.last_read
        if last is not None and len(uids) == 1 and last.serves(self._mailbox_id, uids[0], wanted):
            return {uids[0]: last.reader.row}
        if not uids:
            return {}
        rows = await self._session.services.mail.fetch(self._mailbox_id, [Uid(uid) for uid in uids], wanted)
        return {row.uid: row for row in rows}

    # --- many at once ---

    def _add_readable(
        self, part: Sequence[tuple[int, Uid]], rows: Mapping[int, MessageRow], plan: FetchPlan
    ) -> None:
        """One damaged row must not keep a mailbox from being listed."""
        try:
            self._add_responses(present(self._view, part), rows, plan)
        except Corrupt as error:
            if len(part) == 1:
                self._leave_out(part[0][1], error)
                return
            for pair in part:
                self._add_readable([pair], rows, plan)

    def _add_responses(self, messages: Messages, rows: Mapping[int, MessageRow], plan: FetchPlan) -> None:
        if not messages:
            return
        found = [rows[uid] for uid in messages.uids] if rows else ()
        lines = FetchLines(self._session, messages, found)
        beginnings = lines.beginnings(plan.flat)
        ends = self._endings(lines, messages.uids, plan)
        if ends is None:
            self._writer.add(b")\r\n".join([*beginnings, b""]))
        else:
            self._writer.add(b"".join([b"%b%b)\r\n" % line for line in zip(beginnings, ends, strict=True)]))
        self._told(messages, plan)

    def _endings(self, lines: FetchLines, uids: Sequence[int], plan: FetchPlan) -> list[bytes] | None:
        """FLAGS, and MODSEQ where the session wants it, for messages this command marked ``\\Seen``."""
        if not self._marked:
            return None
        ends = [b""] * len(uids)
        if ViewItem.FLAGS not in plan.flat:
            ends = [b" FLAGS %b" % names for names in lines.flags()]
        if self._view.condstore and ViewItem.MODSEQ not in plan.flat:
            ends = [b"%b MODSEQ (%d)" % pair for pair in zip(ends, lines.modseqs(), strict=True)]
        return [end if uid in self._marked else b"" for end, uid in zip(ends, uids, strict=True)]

    def _told(self, messages: Messages, plan: FetchPlan) -> None:
        """What is on the way to the client need not be told to it again after the command."""
        self.outcome.told += len(messages)
        self._untold.difference_update(messages.uids)
        if ViewItem.FLAGS in plan.flat and (not self._view.condstore or ViewItem.MODSEQ in plan.flat):
            self._view.told_now(messages.uids)

    # --- one by one ---

    async def _add_deep(
        self, portion: Sequence[tuple[int, Uid]], rows: Mapping[int, MessageRow], plan: FetchPlan
    ) -> None:
        prefetch = self._session.services.bodies.prefetch
        for position, pair in enumerate(portion):
            if position % AHEAD == 0 and len(portion) > 1:
                ahead = islice(portion, position + AHEAD if position else 0, position + 2 * AHEAD)
                prefetch([rows[uid].ref for _seq, uid in ahead])
            reader = self._reader(rows[pair[1]], plan)
            try:
                await self._add_message(pair, reader, plan)
                if self._writer.is_full or position % LINES == LINES - 1:
                    await self._writer.flush()
            finally:
                reader.give_back()

    async def _add_message(self, pair: tuple[int, Uid], reader: MessageReader, plan: FetchPlan) -> None:
        row = reader.row
        try:
            values = [(item.label, await reader.value(item)) for item in plan.deep]
            messages = present(self._view, [pair])
            if not messages:
                return
            lines = FetchLines(self._session, messages, [row])
            (beginning,) = lines.beginnings(plan.flat)
        except (Unavailable, Corrupt, NotFound, UnknownEncoding, OverMemory) as error:
            self._leave_out(row.uid, error)
            return
        finally:
            self._forget_if_read(reader, plan)
        ends = self._endings(lines, messages.uids, plan)
        self._told(messages, plan)
        self._writer.add(beginning)
        separator = b" " if plan.flat else b""
        for label, value in values:
            await self._add_value(separator + label + b" ", value)
            separator = b" "
        self._writer.add(b"%b)\r\n" % (ends[0] if ends else b""))

    async def _add_value(self, label: bytes, value: bytes | Streamed) -> None:
        self._writer.add(label)
        if isinstance(value, bytes):
            self._writer.add(value)
            return
        self._writer.add(b"%b{%d}\r\n" % (value.mark, value.stop - value.start))
        await self._writer.stream(value.body, value.start, value.stop)

    def _reader(self, row: MessageRow, plan: FetchPlan) -> MessageReader:
        last, wanted = self._session.last_read, plan.wanted or Wanted.REFERENCE
        if last is not None and last.serves(self._mailbox_id, row.uid, wanted):
            last.reader.begin()
            return last.reader
        reader = MessageReader(self._session.services.bodies, row, self._session.memory)
        if any(item.is_partial for item in plan.deep):
            self._session.last_read = LastRead(self._mailbox_id, wanted, reader)
        return reader

    def _forget_if_read(self, reader: MessageReader, plan: FetchPlan) -> None:
        """A client that has come to the end of a message will not ask for more of it."""
        last = self._session.last_read
        if last is not None and last.reader is reader and not any(map(reader.is_before_end, plan.deep)):
            self._session.last_read = None

    def _leave_out(self, uid: Uid, error: Exception) -> None:
        outcome = self.outcome
        if self._view.row(uid) is None:
            return  # expunged meanwhile: counted as gone
        if isinstance(error, OverMemory):
            outcome.over_memory += 1
        elif isinstance(error, UnknownEncoding):
            outcome.unknown_encoding += 1
        elif isinstance(error, Unavailable):
            outcome.unavailable += 1
        else:
            outcome.corrupt += 1
        log.warning("left uid %d out: %s", uid, error, extra=self._session.connection.log_extra)
        if uid in self._marked:
            outcome.unread.append(uid)
            self._untold.discard(uid)

    # --- \Seen ---

    async def _mark_seen(self, messages: Messages) -> None:
        """One statement for the portion, before its bodies are sent (RFC 9051 §6.4.5)."""
        bits = messages.pick(self._view.shared.flags)
        unseen = [Uid(uid) for uid, b in zip(messages.uids, bits, strict=True) if not b & SystemFlag.SEEN]
        self._marked = frozenset()
        if unseen:
            stored = await self._store(unseen, FlagChange.ADD)
            self._view.told(stored.changed)
            self._marked = frozenset(state.uid for state in stored.changed)
        self._untold = set(map(Uid, self._marked))

    async def _take_back_seen(self) -> None:
        """A message whose body could not be had has not been seen; the client is told as of any change."""
        unread, self.outcome.unread = self.outcome.unread, []
        if unread:
            await self._store(unread, FlagChange.REMOVE)

    async def _store(self, uids: Sequence[Uid], change: FlagChange) -> FlagsStored:
        services, mailbox = self._session.services, self._view.mailbox
        is_watched = await events.is_watched(self._session, mailbox)
        before = events.flags_before(self._session, uids) if is_watched else {}
        stored = await services.mail.store_flags(mailbox.id, uids, change, SEEN)
        if stored.changed:
            origin = self._view if change is FlagChange.ADD else None
            self._view.shared.apply_own(stored.changed, (), stored.highestmodseq, origin)
            services.feed.publish(MailboxChanged(mailbox.account_id, mailbox.id, stored.highestmodseq))
        if is_watched:
            await events.flagged(self._session, mailbox, stored.changed, before, SEEN)
        return stored
