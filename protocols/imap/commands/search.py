"""SEARCH and UID SEARCH.

References: RFC 9051 §6.4.4, RFC 3501 §6.4.4, RFC 4731 (ESEARCH), RFC 5182 (SEARCHRES), RFC 5032 (WITHIN),
RFC 7162 §3.1.5 (MODSEQ), RFC 6855 §3 (CHARSET).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocols.rowsizes import ROW_BYTES, size_of_rows
from storage.errors import Corrupt, NotFound, StorageError
from storage.model import ModSeq, Uid, Wanted

from .. import responses
from ..columns import ViewColumns
from ..pacing import breathe
from ..registry import SELECTED, Command, No, Ok, ParseContext, Tagged
from ..searching import Plan, find_all, find_end
from ..searchkeys import Program, Return, parse_program
from ..searchpace import limit_of
from ..seqset import format_uids
from ..textfacts import MAX_SEARCHED_BYTES, TextFacts

if TYPE_CHECKING:
    from ..grammar import Cursor
    from ..session import ImapSession

log = logging.getLogger("sora.imap")

AHEAD: Final = 16  # bodies asked for in advance
BREATH_MESSAGES: Final = 50  # headers looked at between two looks at the loop
CHARSETS: Final = b"BADCHARSET (US-ASCII UTF-8)"
TEXT_COPIES: Final = 3  # of a searched body: as it came, decoded, folded
_ENDS: Final = Return.MIN | Return.MAX


@dataclass(frozen=True, slots=True)
class Search:
    program: Program
    uid: bool = False


def parse_search(cursor: Cursor, context: ParseContext) -> Search:
    program = parse_program(cursor)
    if program.has_charset and b"UTF8=ACCEPT" in context.enabled:  # RFC 6855 §3
        raise cursor.error("No CHARSET after ENABLE UTF8=ACCEPT")
    return Search(program, context.uid)


async def run_search(session: ImapSession, args: Search) -> Tagged:
    """A failed search with SAVE empties ``$`` (RFC 5182 §2.1), so that nothing acts on an older result."""
    program = args.program
    saves = program.options is not None and Return.SAVE in program.options
    try:
        if not program.is_charset_known:
            return _fail(session, No("Unknown charset", CHARSETS), saves=saves)
        await _search(session, args)
    except StorageError:
        if saves:
            session.view.saved_result = ()
        raise
    return Ok("SEARCH completed")


def _fail(session: ImapSession, outcome: No, *, saves: bool) -> No:
    if saves:
        session.view.saved_result = ()
    return outcome


async def _search(session: ImapSession, args: Search) -> None:
    program, view = args.program, session.view
    if program.has_modseq:
        session.enable_condstore()
    columns = ViewColumns(view)
    plan = Plan(program.key, columns, time.time())
    undecided = len(plan.undecided())
    if undecided:
        if (limit := limit_of(session.policy)) is not None:
            await limit(session.user.account_id)
        session.progress = (0, undecided)
    options = program.options
    if options is None and session.rev2:
        options = Return.ALL  # RFC 9051 §6.4.4: as if RETURN (ALL) had been given
    matches = await _find(plan, _Reader(session, columns), options)
    if options is not None and Return.SAVE in options:
        view.saved_result = tuple(Uid(columns.messages.uids[position]) for position in matches)
    numbers = columns.messages.uids if args.uid else columns.messages.seqs
    modseqs = columns.modseqs if program.has_modseq else None
    if options is None:
        found = [numbers[position] for position in matches]
        session.send(responses.search(found, _highest(modseqs, matches)))
    elif options & ~Return.SAVE:
        session.send(_esearch(session.tag, matches, options, numbers, modseqs, uid=args.uid))
    await session.connection.drain()


# --- results --------------------------------------------------------------------------------------


async def _find(plan: Plan, reader: _Reader, options: Return | None) -> list[int]:
    """All matches; where only MIN or MAX is asked for these alone, found without looking at the rest.

    That is also what SAVE is to remember in each case (RFC 5182 §2.1).
    """
    if options is None or not options & _ENDS or options & (Return.ALL | Return.COUNT):
        return await find_all(plan, reader)
    ends: set[int | None] = set()
    if Return.MIN in options:
        ends.add(await find_end(plan, reader, last=False))
    if Return.MAX in options:
        ends.add(await find_end(plan, reader, last=True))
    return sorted(end for end in ends if end is not None)


def _highest(modseqs: Sequence[int] | None, positions: Sequence[int]) -> ModSeq | None:
    if modseqs is None or not positions:
        return None
    return ModSeq(max(modseqs[position] for position in positions))


def _esearch(
    tag: bytes,
    matches: Sequence[int],
    options: Return,
    numbers: Sequence[int],
    modseqs: Sequence[int] | None,
    *,
    uid: bool,
) -> bytes:
    """Only what was asked for: a COUNT nobody wanted breaks clients. MIN, MAX and ALL need a match."""
    words = [b"* ESEARCH (TAG %b)" % responses.quote(tag)]
    if uid:
        words.append(b"UID")
    if matches:
        if Return.MIN in options:
            words.append(b"MIN %d" % numbers[matches[0]])
        if Return.MAX in options:
            words.append(b"MAX %d" % numbers[matches[-1]])
        if Return.ALL in options:
            words.append(b"ALL " + format_uids(numbers[position] for position in matches))
    if Return.COUNT in options:
        words.append(b"COUNT %d" % len(matches))
    highest = _highest(modseqs, matches)
    if highest is not None:
        words.append(b"MODSEQ %d" % highest)
    return b" ".join(words) + b"\r\n"


# --- reading --------------------------------------------------------------------------------------


class _Reader:
    """``searching.TextReader`` over the stores."""

    def __init__(self, session: ImapSession, columns: ViewColumns) -> None:
        self._session = session
        self._services = session.services
        self._connection = session.connection
        self._mailbox_id = session.view.mailbox.id
        self._uids = columns.messages.uids
        self._examined = 0

    async def rows(self, positions: Sequence[int], *, bodies: bool) -> AsyncIterator[tuple[int, TextFacts]]:
        wanted = Wanted.HEADER | Wanted.STRUCTURE if bodies else Wanted.HEADER
        by_uid = {Uid(self._uids[position]): position for position in positions}
        with self._session.memory.hold(len(by_uid) * ROW_BYTES) as held:
            rows = await self._services.mail.fetch(self._mailbox_id, sorted(by_uid), wanted)
            held.becomes(size_of_rows(rows))
            if len(positions) > 1 and positions[0] > positions[-1]:
                rows.reverse()
            for turn, row in enumerate(rows):
                if turn % BREATH_MESSAGES == 0:
                    self._report(turn)
                    await breathe()
                if bodies and turn % AHEAD == 0:
                    self._services.bodies.prefetch([ahead.ref for ahead in rows[turn : turn + 2 * AHEAD]])
                yield by_uid[row.uid], TextFacts(row)
        self._examined += len(positions)

    def _report(self, turn: int) -> None:
        """Of this read, ``turn`` messages have been looked at."""
        if (progress := self._session.progress) is not None:
            self._session.progress = (min(self._examined + turn, progress[1]), progress[1])

    async def read_body(self, facts: TextFacts) -> None:
        size = min(facts.row.ref.size_bytes, MAX_SEARCHED_BYTES)
        try:
            with self._session.memory.hold(size * TEXT_COPIES):
                body = await self._services.bodies.open(facts.row.ref, facts.row.prefix)
                await facts.read_body(body)
        except (NotFound, Corrupt) as error:
            # One lost body must not make a mailbox unsearchable for ever; fetching it tells the user.
            log.warning("body not searched: %s", error, extra=self._connection.log_extra)
            facts.set_no_body()
        await breathe()


SEARCH = Command(
    name=b"SEARCH",
    states=SELECTED,
    parse=parse_search,
    run=run_search,
    rfc="RFC 9051 §6.4.4",
    capabilities=(b"ESEARCH", b"SEARCHRES", b"WITHIN", b"INPROGRESS"),
    reports_progress=True,
    has_uid_form=True,
    withholds_expunge=True,
)
