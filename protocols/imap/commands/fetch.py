"""FETCH and UID FETCH (RFC 9051 §6.4.5, §6.4.9; RFC 3501 §6.4.5; RFC 7162 §3.1.4; RFC 3516)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..fetching import FetchRun, Outcome
from ..fetchplan import plan_for
from ..items import Item, ViewItem, parse_items
from ..registry import SELECTED, Command, No, Ok, ParseContext, Tagged

if TYPE_CHECKING:
    from ..grammar import Cursor
    from ..seqset import SavedResult, SeqSet, UidSet
    from ..session import ImapSession


@dataclass(frozen=True, slots=True)
class Fetch:
    numbers: SeqSet | UidSet | SavedResult
    items: tuple[Item, ...]
    changed_since: int | None = None
    uid: bool = False


def parse_fetch(cursor: Cursor, context: ParseContext) -> Fetch:
    """UID is an item of every UID FETCH (RFC 9051 §6.4.9), MODSEQ of one with CHANGEDSINCE."""
    cursor.space()
    numbers = cursor.uidset() if context.uid else cursor.seqset()
    cursor.space()
    items = parse_items(cursor)
    changed_since = None
    if not cursor.at_end:
        changed_since = _changed_since(cursor)
        cursor.end()
    implied = [ViewItem.UID] if context.uid else []
    if changed_since is not None:
        implied.append(ViewItem.MODSEQ)
    return Fetch(numbers, tuple(dict.fromkeys([*implied, *items])), changed_since, context.uid)


def _changed_since(cursor: Cursor) -> int:
    cursor.space()
    cursor.expect(b"(")
    if cursor.keyword() != b"CHANGEDSINCE":
        raise cursor.error("Unknown FETCH modifier")
    cursor.space()
    value = cursor.number64()
    cursor.expect(b")")
    return value


async def run_fetch(session: ImapSession, args: Fetch) -> Tagged:
    if ViewItem.MODSEQ in args.items:  # RFC 7162 §3.1: both are CONDSTORE-enabling
        session.enable_condstore()
    fetching = FetchRun(session, plan_for(args.items))
    await fetching.run(args.numbers, args.changed_since)
    return _tagged(fetching.outcome, uid=args.uid)


def _tagged(outcome: Outcome, *, uid: bool) -> Tagged:
    """A body that cannot be had is a failure that says so; a message that is gone is none."""
    if outcome.corrupt:
        return No("Some messages are damaged in the store", b"CORRUPTION")
    if outcome.over_memory:
        return No("Some messages need too much memory in this form, fetch them without decoding", b"LIMIT")
    if outcome.unavailable:
        return No("Some messages cannot be read now, try again later", b"UNAVAILABLE")
    if outcome.unknown_encoding:
        return No("Unknown transfer encoding, use BODY instead", b"UNKNOWN-CTE")
    if outcome.gone and not uid:  # uids that are not there are passed over (RFC 9051 §6.4.9)
        return Ok("FETCH completed, some messages have been expunged", b"EXPUNGEISSUED")
    return Ok("FETCH completed")


FETCH = Command(
    name=b"FETCH",
    states=SELECTED,
    parse=parse_fetch,
    run=run_fetch,
    rfc="RFC 9051 §6.4.5",
    capabilities=(b"BINARY",),
    has_uid_form=True,
    withholds_expunge=True,
)
