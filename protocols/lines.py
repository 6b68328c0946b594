"""Receive buffer of the line protocols: CRLF lines, counted octets, dot-stuffed data; and the way back.

Invariants:

* Only CRLF ends a line. A bare CR or LF is data of the line it stands in, so two programs that read the
  same bytes cannot disagree on where a command, or a message, ends.
* Nothing is scanned twice, and taking a line moves no bytes: the cost is linear, however the bytes arrive.
* A line over its limit is dropped while it arrives and reported once, when its end has come. One that goes
  on for ever is reported before it ends: reading over it would be work without end for a client that may
  not even have logged in.
"""

from __future__ import annotations

import enum

_DATA_END = b"\r\n.\r\n"
_DATA_END_PARTS = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
# Dropped of one line. Honest lines that are too long are a little too long, or a message sent as a command.
MAX_SKIPPED_BYTES = 64 * 1024
_COMPACT_BYTES = 16 * 1024  # consumed bytes in front of the buffer that are worth a move


class Oversized(enum.Enum):
    """Marks the place of a line that was longer than its limit."""

    LINE = "line"
    ENDLESS = "endless"  # its end has not come; there is nothing to do but to close


class LineBuffer:
    """Bytes received and not yet consumed. ``max_line_bytes`` counts without the CRLF."""

    __slots__ = ("_at_line_start", "_data", "_scanned", "_skipped", "_start", "max_line_bytes")

    def __init__(self, max_line_bytes: int) -> None:
        self.max_line_bytes = max_line_bytes
        self._data = bytearray()
        self._start = 0  # consumed before this
        self._scanned = 0  # no CRLF begins before this
        self._skipped = 0  # bytes of an oversized line
        self._at_line_start = True  # of dotted data

    def __len__(self) -> int:
        return len(self._data) - self._start

    @property
    def is_mid_line(self) -> bool:
        """Something has arrived and its end has not, as far as lines go."""
        return self._skipped > 0 or len(self._data) > self._start

    def feed(self, data: bytes) -> None:
        self._data += data

    def clear(self) -> int:
        """Forget everything, a half-read line included; how many bytes were dropped."""
        dropped = len(self)
        self._data.clear()
        self._start = self._scanned = self._skipped = 0
        return dropped

    # --- lines ---

    def next_line(self) -> bytes | Oversized | None:
        """The next line without its CRLF; None when it is not complete yet."""
        end = self._data.find(b"\r\n", max(self._start, self._scanned))
        if end < 0:
            self._await_line_end()
            return Oversized.ENDLESS if self._skipped > MAX_SKIPPED_BYTES else None
        start, skipped = self._start, self._skipped
        self._skipped = 0
        line = None
        if not skipped and end - start <= self.max_line_bytes:
            line = bytes(self._data[start:end])
        self._consume(end + 2)
        return Oversized.LINE if line is None else line

    def _await_line_end(self) -> None:
        if self._skipped or len(self) > self.max_line_bytes + 1:
            kept = b"\r" if self._data.endswith(b"\r") else b""
            self._skipped += len(self) - len(kept)
            self._data[:] = kept
            self._start = 0
        self._scanned = max(self._start, len(self._data) - 1)

    # --- counted octets ---

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` octets, whatever they are; empty when there are none."""
        end = min(len(self._data), self._start + limit)
        octets = bytes(memoryview(self._data)[self._start : end])
        self._consume(end)
        return octets

    def skip(self, limit: int) -> int:
        """Drop up to ``limit`` octets; how many."""
        end = min(len(self._data), self._start + limit)
        dropped = end - self._start
        self._consume(end)
        return dropped

    # --- dot-stuffed data (RFC 5321 §4.5.2) ---

    def start_dotted(self) -> None:
        """The next byte begins the first line of dot-stuffed data."""
        self._at_line_start = True

    def take_dotted(self) -> tuple[bytes, bool]:
        """What has arrived of the data, unstuffed, and whether its end has been reached.

        Only CRLF . CRLF ends it (or . CRLF right at the start). Every other dot at the start of a line
        loses one dot; a dot behind a bare LF is not at the start of a line.
        """
        data, start = self._data, self._start
        if self._at_line_start:
            head = bytes(data[start : start + 3])
            if head in (b"", b".", b".\r"):
                return b"", False  # the next bytes decide
            if head == b".\r\n":
                self._consume(start + 3)
                return b"", True
            self._at_line_start = False
            start += head.startswith(b".")
        end = data.find(_DATA_END, start)
        is_end = end >= 0
        if is_end:
            stop, after = end + 2, end + len(_DATA_END)
        else:
            # what may be the beginning of the end waits for the next bytes
            held = next((len(part) for part in _DATA_END_PARTS if data.endswith(part, start)), 0)
            stop = after = len(data) - held
        content = bytes(memoryview(data)[start:stop]).replace(b"\r\n.", b"\r\n")
        self._consume(after)
        return content, is_end

    def _consume(self, end: int) -> None:
        if end == len(self._data):
            self._data.clear()
            self._start = self._scanned = 0
            return
        self._start = self._scanned = end
        if end > _COMPACT_BYTES and end * 2 > len(self._data):
            del self._data[:end]
            self._start = self._scanned = 0


class DotStuffer:
    """Outgoing data: doubles dots at the start of lines, in pieces of any size.

    The octets are those of the message, bare CR and LF included; what is added is a second dot at the start
    of a line and, where the message does not end in CRLF, one CRLF before the final dot.

    Deviation: RFC 1939 §3 knows CRLF lines only, but fetchmail, JavaMail, Thunderbird and Python's poplib
    take a bare LF for the end of a line too. A message with LF . LF in it would end early for them, and
    its rest would be read as our next replies. So a dot behind a bare LF is doubled as well: those clients
    give the message back exactly, strict ones (curl) show one dot too many in such a message.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the last two octets sent

    def feed(self, piece: bytes) -> bytes:
        stuffed = piece.replace(b"\n.", b"\n..")
        if piece.startswith(b".") and self._tail.endswith(b"\n"):
            stuffed = b"." + stuffed
        self._tail = (self._tail + piece[-2:])[-2:]
        return stuffed

    def finish(self) -> bytes:
        """The end of the data."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
