"""STORE and UID STORE, with UNCHANGEDSINCE (RFC 7162 §3.1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocols.ports import MailboxChanged
from storage.model import FlagChange, Flags, FlagsStored, MessageState, ModSeq, Uid

from .. import events, responses
from ..grammar import Cursor
from ..registry import SELECTED, Command, Ok, Outcome, ParseContext
from ..replies import refusal_to_change
from ..seqset import SavedResult, SeqSet, UidSet

if TYPE_CHECKING:
    from ..session import ImapSession

_LINES_BETWEEN_DRAINS: Final = 500

_ACTIONS: Final = {
    b"FLAGS": FlagChange.REPLACE,
    b"+FLAGS": FlagChange.ADD,
    b"-FLAGS": FlagChange.REMOVE,
}


@dataclass(frozen=True, slots=True)
class StoreArgs:
    numbers: SeqSet | UidSet | SavedResult
    change: FlagChange
    flags: Flags
    silent: bool
    unchanged_since: ModSeq | None
    uid: bool


def parse_store(cursor: Cursor, context: ParseContext) -> StoreArgs:
    cursor.space()
    numbers = cursor.uidset() if context.uid else cursor.seqset()
    cursor.space()
    unchanged_since = None
    if cursor.accept(b"("):
        cursor.expect(b"UNCHANGEDSINCE ")
        unchanged_since = ModSeq(cursor.number64())
        cursor.expect(b")")
        cursor.space()
    action = cursor.keyword()
    silent = action.endswith(b".SILENT")
    change = _ACTIONS.get(action.removesuffix(b".SILENT"))
    if change is None:
        raise cursor.error("Expected FLAGS, +FLAGS or -FLAGS")
    cursor.space()
    flags = cursor.flags()
    cursor.end()
    return StoreArgs(numbers, change, flags, silent, unchanged_since, context.uid)


async def run_store(session: ImapSession, args: StoreArgs) -> Outcome:
    view = session.view
    if (refusal := refusal_to_change(view)) is not None:
        return refusal
    if args.unchanged_since is not None:
        session.enable_condstore()  # RFC 7162 §3.1
    targets = view.resolve(args.numbers)
    if not targets:
        return Ok("No messages to change")
    uids = [uid for _, uid in targets]
    is_watched = await events.is_watched(session, view.mailbox)
    believed = view.believed(uids) if args.silent else {}
    before = events.flags_before(session, uids) if is_watched else {}
    stored = await session.services.mail.store_flags(
        view.mailbox.id, uids, args.change, args.flags, args.unchanged_since
    )
    _publish(session, stored)
    if is_watched:
        await events.flagged(session, view.mailbox, stored.changed, before, args.flags)
    if not args.silent:
        await _tell(session, args, targets, set(stored.conflicts))
    else:
        view.settle(stored.changed, believed, args.change, args.flags)
        if view.condstore:
            await _tell_modseqs(session, args, stored.changed)
    return _outcome(session, args, targets, stored)


def _publish(session: ImapSession, stored: FlagsStored) -> None:
    """Commit, then publish, then speak. Nothing is read back: the store told what it wrote."""
    if not stored.changed:
        return
    view = session.view
    view.shared.apply_own(stored.changed, (), stored.highestmodseq, view)
    change = MailboxChanged(session.user.account_id, view.mailbox.id, stored.highestmodseq)
    session.services.feed.publish(change)


async def _tell(
    session: ImapSession, args: StoreArgs, targets: list[tuple[int, Uid]], conflicts: set[Uid]
) -> None:
    """The flags of every message asked for, changed or not, as they are now."""
    view = session.view
    session.write_new_keywords()
    for position, (seq, uid) in enumerate(targets):
        state = None if uid in conflicts else view.row(uid)
        if state is None:
            continue
        session.send(
            responses.fetch_flags(
                seq,
                state.flags,
                recent=view.is_recent(uid) and not session.rev2,
                uid=uid if args.uid else None,
                modseq=state.modseq if view.condstore else None,
            )
        )
        view.told((state,))
        if position % _LINES_BETWEEN_DRAINS == _LINES_BETWEEN_DRAINS - 1:
            await session.connection.drain()


async def _tell_modseqs(session: ImapSession, args: StoreArgs, changed: tuple[MessageState, ...]) -> None:
    """Silence concerns the flags; the new modseq is told (RFC 7162 §3.1.3)."""
    view = session.view
    for position, state in enumerate(changed):
        seq = view.seq_of(state.uid)
        if seq is None:
            continue
        items = [b"UID %d" % state.uid] if args.uid else []
        session.send(responses.fetch(seq, [*items, b"MODSEQ (%d)" % state.modseq]))
        if position % _LINES_BETWEEN_DRAINS == _LINES_BETWEEN_DRAINS - 1:
            await session.connection.drain()


def _outcome(
    session: ImapSession, args: StoreArgs, targets: list[tuple[int, Uid]], stored: FlagsStored
) -> Outcome:
    view = session.view
    if stored.conflicts:
        conflicts = set(stored.conflicts)
        numbers = [uid if args.uid else seq for seq, uid in targets if uid in conflicts]
        return Ok("Some messages were changed meanwhile", responses.code_modified(numbers))
    if view.has_untold_expunges and not args.uid and any(view.row(uid) is None for _, uid in targets):
        return Ok("Some of the messages no longer exist", b"EXPUNGEISSUED")  # RFC 2180 §4.2.1
    return Ok("Stored")


STORE = Command(
    b"STORE",
    SELECTED,
    parse_store,
    run_store,
    "RFC 9051 §6.4.6, RFC 7162 §3.1.3",
    has_uid_form=True,
    withholds_expunge=True,
)
