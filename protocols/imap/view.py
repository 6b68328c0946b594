"""The mailbox in memory, and each session's own window on it.

Theory: ``SharedView`` is one process's knowledge of one mailbox: parallel arrays ascending by uid. Every
session that selected the mailbox holds a ``SessionView``: which of these messages it has *announced*, and
in what order. Sequence numbers are positions in that window, so they change only in ``sync``, whose
result the session writes out as EXPUNGE and EXISTS lines.

An append extends the shared uid array in place; a window does not see it, since it knows how many
entries it announced. An expunge builds a new array, and a window that has not announced the expunge yet
keeps the old one. Thus all up-to-date windows share one array and laggards cost one array each.

Invariants:
* ``window == announced uids``, ascending; announced minus gone is a prefix of the shared uids.
* A message that came and went between two syncs was never announced, so it is never expunged for that
  session (no phantom EXPUNGE).
* The count never grows while announced messages are gone but not yet reported.
* ``version`` is the modseq up to which the shared view is complete; it never falls. Rows may be newer.
* ``uidnext`` rises only with complete changes; a row below it that is not present was expunged, so a
  late answer cannot bring it back.

References: RFC 9051 §2.3.1 (message numbers), §5.2 (updates), §7.5.1 (EXPUNGE), RFC 7162 §3.1.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Final

from protocols.errors import PeerError
from storage.flags import changed
from storage.model import (
    FlagChange,
    Flags,
    Mailbox,
    MailboxChanges,
    MessageState,
    ModSeq,
    SystemFlag,
    Uid,
)

from .seqset import SavedResult, SeqSet, UidSet

if TYPE_CHECKING:
    from storage.api import MailboxView

# Keywords that FLAGS lists. Beyond it they work as well; the list is there to offer them to users, and a
# client that makes up keywords must not make every session's list grow.
MAX_KEYWORD_NAMES: Final = 1000
# Distinct keyword sets remembered for sharing
_MAX_INTERNED: Final = 10_000
# FETCH lines of one sync, about 100 KiB; the others stay pending, so that one burst of changes made
# elsewhere does not pile up in the output of every session that looks at the mailbox
MAX_CHANGES_PER_SYNC: Final = 2000
# maps a flags octet to 1 where \Seen is set, so that bytes.find answers "first unseen" at C speed
_IS_SEEN: Final = bytes(int(bool(bits & SystemFlag.SEEN)) for bits in range(256))
# most messages have no keywords: they share these
_PLAIN_FLAGS: Final = tuple(Flags(SystemFlag(bits)) for bits in range(32))


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change did to the shared view."""

    appended: tuple[Uid, ...] = ()
    expunged: tuple[Uid, ...] = ()
    changed: tuple[Uid, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.appended or self.expunged or self.changed)


@dataclass(frozen=True, slots=True)
class Updates:
    """What a session has to tell its client, in the order to write it."""

    expunged: tuple[int, ...] = ()  # sequence numbers, descending: each is right when it is written
    exists: int | None = None
    recent: int | None = None
    changed: tuple[tuple[int, MessageState], ...] = ()  # (seq after the above, state)

    def __bool__(self) -> bool:
        return bool(self.expunged or self.changed) or self.exists is not None


NOTHING: Final = Updates()


class SharedView:
    """One mailbox as this process knows it; see the module docstring for what may be relied upon."""

    __slots__ = (
        "_flags",
        "_interned",
        "_keywords",
        "_sessions",
        "dates",
        "is_gone",
        "keyword_names",
        "mailbox",
        "modseqs",
        "sizes",
        "uidnext",
        "uids",
        "version",
    )

    def __init__(self, loaded: MailboxView) -> None:
        self.mailbox = loaded.mailbox
        self.version: ModSeq = loaded.mailbox.highestmodseq
        self.uidnext: int = loaded.mailbox.uidnext
        self.uids = array("I", loaded.uids)
        self.modseqs = array("q", loaded.modseqs)
        self._flags = array("B", loaded.flags)
        self.sizes = array("q", loaded.sizes)
        self.dates = array("q", loaded.internaldates)
        self.keyword_names: dict[str, str] = {}  # folded: as first seen; only grows
        self._interned: dict[frozenset[str], frozenset[str]] = {}
        self._keywords: dict[int, frozenset[str]] = {}
        for uid, names in loaded.keywords.items():
            self._set_keywords(uid, names)
        self._sessions: list[SessionView] = []
        self.is_gone = False  # the mailbox was deleted

    # --- reading ---

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def flags(self) -> array[int]:
        """System flag bits, parallel to ``uids``."""
        return self._flags

    @property
    def keywords(self) -> Mapping[int, frozenset[str]]:
        """By uid; messages without keywords are absent."""
        return self._keywords

    def index_of(self, uid: int) -> int | None:
        """Position in the arrays. O(log n)."""
        index = bisect_left(self.uids, uid)
        return index if index < len(self.uids) and self.uids[index] == uid else None

    def state_at(self, index: int) -> MessageState:
        uid = self.uids[index]
        return MessageState(
            uid=Uid(uid),
            modseq=ModSeq(self.modseqs[index]),
            flags=self.flags_at(index),
            size_bytes=self.sizes[index],
            internaldate=self.dates[index],
        )

    def flags_at(self, index: int) -> Flags:
        plain = _PLAIN_FLAGS[self._flags[index]]
        names = self._keywords.get(self.uids[index])
        return plain if names is None else Flags(plain.system, names)

    def first_unseen(self) -> int | None:
        """Position of the first message without ``\\Seen``."""
        index = self._flags.tobytes().translate(_IS_SEEN).find(b"\0")
        return None if index < 0 else index

    def deleted_uids(self) -> list[Uid]:
        deleted = SystemFlag.DELETED.value
        marked = [bits & deleted for bits in self._flags]
        return [Uid(uid) for uid in compress(self.uids, marked)]

    # --- changing ---

    def apply(self, changes: MailboxChanges, origin: SessionView | None = None) -> Applied:
        """Fold in all changes after some modseq not above ``version``.

        Idempotent, and harmless when answers arrive out of order. ``origin`` is the session that made
        the changes and tells its client itself.
        """
        applied = self._fold(changes.changed, changes.expunged, origin)
        if changes.mailbox.highestmodseq >= self.version:
            self.mailbox = changes.mailbox
            self.version = changes.mailbox.highestmodseq
        self.uidnext = max(self.uidnext, changes.mailbox.uidnext)
        return applied

    def apply_own(
        self,
        changed: Sequence[MessageState],
        expunged: Sequence[Uid],
        modseq: ModSeq,
        origin: SessionView | None,
    ) -> Applied:
        """Fold in the outcome of one write of ours, committed as ``modseq``.

        Other commits below ``modseq`` may still be unknown; only when there can be none (modseqs are
        given out one by one) does ``version`` rise. Then nothing needs to be read back.
        """
        known = [state for state in changed if state.uid < self.uidnext]
        applied = self._fold(known, expunged, origin)
        if modseq == self.version + 1 and len(known) == len(changed):
            self.version = modseq
        return applied

    def _fold(
        self, changed: Sequence[MessageState], expunged: Sequence[Uid], origin: SessionView | None
    ) -> Applied:
        removed = self._remove(expunged)
        appended: list[Uid] = []
        updated: list[Uid] = []
        for state in sorted(changed, key=lambda row: row.uid):
            index = self.index_of(state.uid)
            if index is not None:
                if state.modseq > self.modseqs[index]:
                    self._update(index, state)
                    updated.append(state.uid)
            elif state.uid >= self.uidnext and (not self.uids or state.uid > self.uids[-1]):
                self._append(state)
                appended.append(state.uid)
        applied = Applied(tuple(appended), tuple(removed), tuple(updated))
        if applied:
            for session in self._sessions:
                session._note(applied, is_origin=session is origin)
        return applied

    def _append(self, state: MessageState) -> None:
        self.uids.append(state.uid)
        self.modseqs.append(state.modseq)
        self._flags.append(state.flags.system)
        self.sizes.append(state.size_bytes)
        self.dates.append(state.internaldate)
        self._set_keywords(state.uid, state.flags.keywords)

    def _update(self, index: int, state: MessageState) -> None:
        self.modseqs[index] = state.modseq
        self._flags[index] = state.flags.system
        self._set_keywords(state.uid, state.flags.keywords)

    def _set_keywords(self, uid: int, names: frozenset[str]) -> None:
        if not names:
            self._keywords.pop(uid, None)
            return
        shared = self._interned.get(names)
        if shared is None:
            if len(self._interned) >= _MAX_INTERNED:
                self._interned.clear()
            shared = self._interned[names] = names
            for name in sorted(names):
                if len(self.keyword_names) < MAX_KEYWORD_NAMES:
                    self.keyword_names.setdefault(name.lower(), name)
        self._keywords[uid] = shared

    def _remove(self, uids: Sequence[Uid]) -> list[Uid]:
        present = {uid: index for uid in uids if (index := self.index_of(uid)) is not None}
        if not present:
            return []
        for uid in present:
            self._keywords.pop(uid, None)
        gaps = sorted(present.values())
        self.uids = _without(self.uids, gaps)  # a new one: windows may hold the old
        self.modseqs = _without(self.modseqs, gaps)
        self._flags = _without(self._flags, gaps)
        self.sizes = _without(self.sizes, gaps)
        self.dates = _without(self.dates, gaps)
        return sorted(present)

    def mark_gone(self) -> None:
        """The mailbox was deleted; every session learns it at its next sync."""
        self.is_gone = True
        for session in self._sessions:
            session.notify()


def _without(column: array[int], gaps: Sequence[int]) -> array[int]:
    """A copy without the elements at ``gaps`` (ascending); copies runs, not elements."""
    kept = array(column.typecode)
    start = 0
    for gap in gaps:
        kept += column[start:gap]
        start = gap + 1
    kept += column[start:]
    return kept


def ignore() -> None:
    """Nobody waits for news."""
    return


class SessionView:
    """What one session has announced of a mailbox, and what it still has to announce."""

    __slots__ = (
        "_count",
        "_dirty",
        "_gone",
        "_recent_from",
        "_uids",
        "claimed_recent",
        "condstore",
        "known_keywords",
        "notify",
        "read_only",
        "saved_result",
        "shared",
    )

    def __init__(self, shared: SharedView, *, read_only: bool, recent_from: Uid, condstore: bool) -> None:
        self.shared = shared
        self.read_only = read_only
        self.condstore = condstore  # FETCH and flag updates carry MODSEQ
        self.saved_result: tuple[Uid, ...] = ()  # ``$``, ascending
        self.notify: Callable[[], None] = ignore  # called when something becomes pending (IDLE)
        self.claimed_recent = recent_from  # the store was told that messages below are not recent
        self.known_keywords = len(shared.keyword_names)  # how many of them the client was told
        self._uids = shared.uids
        self._count = len(shared.uids)
        self._gone: list[Uid] = []  # announced, expunged since, not yet told
        self._dirty: set[Uid] = set()  # announced, flags or modseq changed since by others
        self._recent_from = recent_from
        shared._sessions.append(self)

    def close(self) -> None:
        """Stop receiving changes. Idempotent."""
        if self in self.shared._sessions:
            self.shared._sessions.remove(self)

    # --- the window ---

    @property
    def mailbox(self) -> Mailbox:
        return self.shared.mailbox

    @property
    def count(self) -> int:
        """Messages announced: the greatest valid sequence number."""
        return self._count

    @property
    def is_aligned(self) -> bool:
        """Whether message ``seq`` is at ``seq - 1`` in the shared arrays: none is gone unannounced."""
        return self._uids is self.shared.uids

    def uid_at(self, seq: int) -> Uid:
        """Raises IndexError outside 1..count."""
        if not 0 < seq <= self._count:
            raise IndexError(seq)
        return Uid(self._uids[seq - 1])

    def seq_of(self, uid: int) -> int | None:
        """O(log n)."""
        index = bisect_left(self._uids, uid, 0, self._count)
        return index + 1 if index < self._count and self._uids[index] == uid else None

    def uids(self) -> array[int]:
        """A copy of the announced uids, ascending; position + 1 is the sequence number."""
        return self._uids[: self._count]

    def row(self, uid: int) -> MessageState | None:
        """Current state; None when the message is gone but its EXPUNGE not yet announced. O(log n)."""
        index = self.shared.index_of(uid)
        return None if index is None else self.shared.state_at(index)

    def is_recent(self, uid: int) -> bool:
        """Whether ``\\Recent`` is set for this session (RFC 3501 §2.3.2)."""
        return uid >= self._recent_from

    @property
    def recent(self) -> int:
        return self._count - bisect_left(self._uids, self._recent_from, 0, self._count)

    def resolve(self, numbers: SeqSet | UidSet | SavedResult) -> list[tuple[int, Uid]]:
        """``(seq, uid)`` of the announced messages a set names, ascending. O(ranges log n + result).

        Uids that are not there are passed over (RFC 9051 §6.4.8); a sequence number that is not there is
        the client's mistake (RFC 9051 §9, seq-number) and raises PeerError.
        Deviation: a range that only ends beyond the last message is cut, and ``*`` in an empty mailbox
        names nothing: clients send ``1:*`` without looking at EXISTS.
        """
        if isinstance(numbers, SavedResult):
            return [(seq, uid) for uid in self.saved_result if (seq := self.seq_of(uid)) is not None]
        found: list[tuple[int, Uid]] = []
        uids = self._uids
        for first, last in self._spans(numbers):
            found += zip(range(first + 1, last + 1), map(Uid, uids[first:last]), strict=True)
        return found

    def portions(self, numbers: SeqSet | UidSet | SavedResult, size: int) -> Iterator[list[tuple[int, Uid]]]:
        """As ``resolve``, at most ``size`` messages at a time, so that a set costs no memory of its own.

        What is wrong with the set is raised here and now, not while iterating; the window must not be
        synced in between.
        """
        if isinstance(numbers, SavedResult):
            found = self.resolve(numbers)
            return (found[at : at + size] for at in range(0, len(found), size))
        return self._cut(list(self._spans(numbers)), size)

    def _cut(self, spans: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, Uid]]]:
        """Portions of full size also where a client lists its messages one by one."""
        portion: list[tuple[int, Uid]] = []
        for first, last in spans:
            while first < last:
                stop = min(last, first + size - len(portion))
                portion += zip(range(first + 1, stop + 1), map(Uid, self._uids[first:stop]), strict=True)
                first = stop
                if len(portion) == size:
                    yield portion
                    portion = []
        if portion:
            yield portion

    def _spans(self, numbers: SeqSet | UidSet) -> Iterable[tuple[int, int]]:
        """Slices ``first:last`` of the window."""
        count = self._count
        if isinstance(numbers, UidSet):
            top = self._uids[count - 1] if count else 0
            for low, high in numbers.ranges(top):
                first = bisect_left(self._uids, low, 0, count)
                yield first, bisect_left(self._uids, high + 1, first, count) if high < top else count
            return
        for low, high in numbers.ranges(count):
            if low > count:
                raise PeerError(f"There is no message {low}")
            yield low - 1, min(high, count)

    # --- changes ---

    def _note(self, applied: Applied, *, is_origin: bool) -> None:
        """Called by the shared view. Only what this session announced can concern it."""
        top = self._uids[self._count - 1] if self._count else 0
        self._gone += [uid for uid in applied.expunged if uid <= top]
        if not is_origin:
            self._dirty.update(uid for uid in applied.changed if uid <= top)
        if self._gone or self._dirty or applied.appended:
            self.notify()

    @property
    def pending(self) -> bool:
        """Whether a sync would have something to say."""
        return bool(self._gone or self._dirty or len(self.shared.uids) != self._count)

    @property
    def has_untold_expunges(self) -> bool:
        """Whether some announced messages are gone without the client knowing."""
        return bool(self._gone)

    def sync(self, *, expunge_allowed: bool) -> Updates:
        """Move the window to the present and return what must be written for it, at once and in order."""
        if not (self._gone or self._dirty or len(self.shared.uids) != self._count):
            return NOTHING
        expunged: tuple[int, ...] = ()
        exists = recent = None
        if expunge_allowed or not self._gone:
            expunged = tuple(self._seqs_descending(self._gone))
            grown = len(self.shared.uids) > self._count - len(self._gone)
            self._gone.clear()
            self._uids = self.shared.uids
            self._count = len(self._uids)
            if grown:
                exists, recent = self._count, self.recent
        changed = self._take_dirty()
        return Updates(expunged, exists, recent, changed)

    def _seqs_descending(self, uids: Iterable[Uid]) -> list[int]:
        found = (bisect_left(self._uids, uid, 0, self._count) + 1 for uid in uids)
        return sorted(found, reverse=True)

    def _take_dirty(self) -> tuple[tuple[int, MessageState], ...]:
        """States of changed messages; those that are gone will be told as expunged instead."""
        if not self._dirty:
            return ()
        found = []
        uids = sorted(self._dirty)[:MAX_CHANGES_PER_SYNC]
        for uid in uids:
            seq, state = self.seq_of(uid), self.row(uid)
            if seq is not None and state is not None:
                found.append((seq, state))
        self._dirty.difference_update(uids)
        return tuple(found)

    # --- own flag changes ---

    def believed(self, uids: Iterable[Uid]) -> dict[Uid, Flags]:
        """Flags as the client knows them, of those messages where it knows the latest of ours."""
        known = {}
        for uid in uids:
            index = None if uid in self._dirty else self.shared.index_of(uid)
            if index is not None:
                known[uid] = self.shared.flags_at(index)
        return known

    def settle(
        self,
        stored: Sequence[MessageState],
        believed: Mapping[Uid, Flags],
        change: FlagChange,
        flags: Flags,
    ) -> None:
        """After a silent STORE: where the client's own arithmetic gives another result than was stored,
        someone else changed the message meanwhile, and the client must be told (RFC 9051 §6.4.6)."""
        outcomes: dict[int, Flags] = {}  # by identity: most messages share their Flags object
        for state in stored:
            before = believed.get(state.uid)
            expected = None if before is None else outcomes.get(id(before))
            if before is not None and expected is None:
                expected = outcomes[id(before)] = changed(before, change, flags)
            if expected == state.flags:
                self._dirty.discard(state.uid)
            elif self.seq_of(state.uid) is not None:
                self._dirty.add(state.uid)

    def told_now(self, uids: Iterable[int]) -> None:
        """The session wrote the flags of these messages as they are at this moment."""
        if self._dirty:
            self._dirty.difference_update(map(Uid, uids))

    def told(self, states: Iterable[MessageState]) -> None:
        """The session wrote these states to its client; older news of them is moot."""
        for state in states:
            index = self.shared.index_of(state.uid)
            if index is not None and self.shared.modseqs[index] <= state.modseq:
                self._dirty.discard(state.uid)
