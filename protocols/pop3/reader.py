"""Messages on their way to a POP3 client: rows read ahead, bodies streamed, dots doubled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from protocols.lines import DotStuffer
from protocols.memory import SessionMemory
from protocols.ports import Services
from protocols.rowsizes import ROW_BYTES, size_of_rows
from storage.errors import Corrupt, Unavailable
from storage.model import MessageRow, Uid, Wanted

from .maildrop import Maildrop

# Clients take messages in order: one read serves this many of them. Rows with headers are larger.
ROWS_AHEAD = 100
HEADERS_AHEAD = 50


class MessageReader:
    """Knows the rows of the next messages; a client in order costs one read for ``ROWS_AHEAD`` messages."""

    __slots__ = ("_charged", "_has_headers", "_maildrop", "_memory", "_rows", "_services")

    def __init__(self, services: Services, maildrop: Maildrop, memory: SessionMemory) -> None:
        self._services = services
        self._memory = memory
        self._charged = 0
        self._maildrop = maildrop
        self._rows: dict[Uid, MessageRow] = {}
        self._has_headers = False

    async def pieces(self, number: int, body_lines: int | None) -> AsyncGenerator[bytes, None]:
        """The message, dot-stuffed, with the final dot; only the header and so many lines of the body when
        ``body_lines`` is given.

        Raises:
            Unavailable: it cannot be had now, or has been removed meanwhile.
            Corrupt: what storage gave does not have the right size or hash.
            OverMemory: the rows read ahead do not fit.
        """
        row = await self._row(number, with_header=body_lines is not None)
        stuffer = DotStuffer()
        source = self._whole(row) if body_lines is None else self._top(row, body_lines)
        held = b""  # one piece back, so that the final dot leaves with the last one
        async with aclosing(source):
            async for piece in source:
                if held:
                    yield held
                held = stuffer.feed(piece)
        yield held + stuffer.finish()

    async def _row(self, number: int, *, with_header: bool) -> MessageRow:
        uid = self._maildrop.uid(number)
        if uid not in self._rows or (with_header and not self._has_headers):
            uids = self._maildrop.next_uids(number, HEADERS_AHEAD if with_header else ROWS_AHEAD)
            self._forget_rows()
            with self._memory.hold(len(uids) * ROW_BYTES if with_header else 0):
                rows = await self._services.mail.fetch(
                    self._maildrop.mailbox_id, uids, Wanted.HEADER if with_header else Wanted.REFERENCE
                )
            self._charged = size_of_rows(rows)
            self._memory.note(self._charged)
            self._rows = {row.uid: row for row in rows}
            self._has_headers = with_header
            if not with_header and len(rows) > 1:
                self._services.bodies.prefetch([row.ref for row in rows])
        if uid not in self._rows:
            raise Unavailable("the message was removed by another session")
        return self._rows[uid]

    def _forget_rows(self) -> None:
        self._rows = {}
        self._memory.refund(self._charged)
        self._charged = 0

    async def _whole(self, row: MessageRow) -> AsyncGenerator[bytes, None]:
        body = await self._services.bodies.open(row.ref, row.prefix)
        expected = len(row.prefix) + row.ref.size_bytes
        got = 0
        async for piece in body.stream():
            got += len(piece)
            yield piece
        if got != expected:
            raise Corrupt(f"{got} octets of a message of {expected}")

    async def _top(self, row: MessageRow, lines: int) -> AsyncGenerator[bytes, None]:
        """RFC 1939 §7: the header, the empty line, and ``lines`` lines of the body."""
        head = row.prefix + row.header
        if head:
            yield head
        if not lines or len(row.header) >= row.ref.size_bytes:
            return
        body = await self._services.bodies.open(row.ref, row.prefix)
        async for piece in body.stream(len(head)):
            end = _end_of_line(piece, lines)
            if end is not None:
                yield piece[:end]
                return
            lines -= piece.count(b"\n")
            yield piece


def _end_of_line(piece: bytes, lines: int) -> int | None:
    """Where the ``lines``-th line of ``piece`` ends; None when it does not have so many."""
    end = 0
    for _ in range(lines):
        end = piece.find(b"\n", end) + 1
        if not end:
            return None
    return end
