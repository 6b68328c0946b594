"""IMAP framing as a pure machine: bytes in, whole commands out.

Theory: a command is a line that may be continued by literals. Small literals are folded into the command,
so that parsers see one piece of bytes. The message literal of APPEND is not: it comes as ``AppendStarted``,
and after the session's ``accept_literal`` as pieces of whatever size the network had, so a message of any
size costs the memory of one piece.

Invariants:
* Never raises on foreign bytes; what breaks the framing becomes ``BadInput``, and reading goes on behind
  the next line end (behind the literal, where a non-synchronizing one was announced).
* A continuation for a synchronizing literal is queued only when its octets will be taken.
* At most one command limit's worth of bytes is held beside the receive buffer.

References: RFC 9051 §2.2 (commands, literals), RFC 7888 (LITERAL+), RFC 3516 §4.4 (literal8),
RFC 2177 (IDLE ends with a line), RFC 9051 §6.2.2 (AUTHENTICATE continues with lines).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from protocols.errors import MachineMisuse

from . import responses

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 7162 §4 recommends taking lines of at least 8192 octets; clients list uids one by one in a set.
MAX_LINE_BYTES: Final = 64 * 1024
MAX_COMMAND_BYTES: Final = 128 * 1024  # a line with its small literals
# Before login nobody needs more than a name and a password or a SASL response.
MAX_LINE_BYTES_UNAUTHENTICATED: Final = 8 * 1024
MAX_COMMAND_BYTES_UNAUTHENTICATED: Final = 8 * 1024
# A refused non-synchronizing literal is on its way already. Up to this size it is read and dropped, beyond
# it closing is kinder to both sides (RFC 7888 §4).
MAX_SWALLOWED_BYTES: Final = 128 * 1024 * 1024
MAX_SWALLOWED_BYTES_UNAUTHENTICATED: Final = 64 * 1024
MAX_LITERALS: Final = 256  # in one command: a search for many strings has a dozen
_MAX_TAG_BYTES: Final = 100
_MAX_LITERAL_SUFFIX: Final = 32  # the longest "~{n+}" that is looked at

# tag: any ASTRING-CHAR except "+" (RFC 9051 §9)
_TAG: Final = rb'[^\x00-\x20\x7f-\xff(){%*"\\+]'
_COMMAND = re.compile(rb"(%b{1,%d}) ([A-Za-z][A-Za-z0-9-]*)(.*)\Z" % (_TAG, _MAX_TAG_BYTES), re.DOTALL)
_TAG_ONLY = re.compile(rb"(%b{1,%d})(?: |\Z)" % (_TAG, _MAX_TAG_BYTES))
_LITERAL = re.compile(rb"(~?)\{([0-9]{1,19})(\+?)\}\Z")
# everything before a literal that can only be the message: at least a mailbox name is there
_APPEND = re.compile(
    rb"(%b{1,%d}) APPEND( .*[^ ] (?:UTF8 \()?)\Z" % (_TAG, _MAX_TAG_BYTES), re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class CommandReady:
    """A whole command; ``args`` starts with the space after the name, literals stand inline."""

    tag: bytes
    name: bytes  # upper case
    args: bytes


@dataclass(frozen=True, slots=True)
class AppendStarted:
    """APPEND up to its message literal. The session answers with accept_literal or refuse_literal."""

    tag: bytes
    args: bytes  # without the literal's announcement
    size_bytes: int
    is_synchronizing: bool
    is_binary: bool  # literal8


@dataclass(frozen=True, slots=True)
class LiteralData:
    data: bytes


@dataclass(frozen=True, slots=True)
class LiteralEnded:
    """``rest`` is what followed the literal on its line; nothing, for a plain APPEND."""

    rest: bytes


@dataclass(frozen=True, slots=True)
class LineReceived:
    """The line that the session asked for with ``expect_line``."""

    line: bytes


@dataclass(frozen=True, slots=True)
class BadInput:
    """Something that is no command. ``tag`` None: no tag could be made out."""

    tag: bytes | None
    text: str
    fatal: bool = False


Event: TypeAlias = CommandReady | AppendStarted | LiteralData | LiteralEnded | LineReceived | BadInput


class _Step(enum.Enum):
    AGAIN = enum.auto()


# A reader has changed what is read next and the buffer may hold it already. Readers do not call each
# other: bytes decide how often they would, and the stack is finite.
_AGAIN: Final = _Step.AGAIN
_Read: TypeAlias = Event | Literal[_Step.AGAIN] | None


class ImapMachine:
    """See the module docstring. ``is_authenticated`` is the session's to set; it raises the limits. So is
    ``takes_unasked_literals``: without it non-synchronizing literals are read over, their commands refused.
    """

    __slots__ = (
        "_appending",
        "_binary_literal",
        "_buffer",
        "_failure",
        "_literals",
        "_out",
        "_parts",
        "_reader",
        "_remaining",
        "_scanned",
        "_skipped",
        "is_authenticated",
        "takes_unasked_literals",
    )

    def __init__(self) -> None:
        self.is_authenticated = False
        self.takes_unasked_literals = True
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._reader: Callable[[], _Read] = self._read_command
        self._reset()

    def _reset(self) -> None:
        self._scanned = 0  # no line end below this offset of the buffer
        self._parts = bytearray()  # the command so far, while its literals are being collected
        self._literals = 0  # how many of them
        self._remaining = 0  # octets of the current literal still to come
        self._binary_literal = False
        self._skipped = 0  # octets of the broken command, those of its literals from their announcement on
        self._failure: BadInput | None = None  # to be reported when the broken command has been skipped
        self._appending: AppendStarted | None = None
        self._reader = self._read_command

    # --- what the driver calls ---

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> Event | None:
        event = self._reader()
        while event is _AGAIN:
            event = self._reader()
        return event

    def data_to_send(self) -> bytes:
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def discard_input(self) -> int:
        """Forget what was received; nothing sent before TLS may run after it (RFC 9051 §6.2.1)."""
        dropped = len(self._buffer) + len(self._parts)
        self._buffer.clear()
        self._reset()
        return dropped

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    @property
    def is_mid_input(self) -> bool:
        if self._buffer or self._parts:
            return True
        if self._reader == self._read_command:  # asked after every turn, and nearly always so
            return False
        return self._reader not in (self._read_line, self._read_nothing)

    # --- what the session calls ---

    def send(self, data: bytes) -> None:
        """Queue whole response lines."""
        self._out.append(data)

    def expect_line(self, continuation: bytes) -> None:
        """Send a continuation request; the next line comes as it is, as ``LineReceived``."""
        self._out.append(responses.continuation(continuation))
        self._reader = self._read_line

    def accept_literal(self) -> None:
        """After AppendStarted: let the message come."""
        started = self._take_appending()
        if started.is_synchronizing:
            self._out.append(responses.continuation(b"Ready for the message"))
        self._remaining = started.size_bytes
        self._reader = self._read_streamed

    def refuse_literal(self) -> bool:
        """After AppendStarted: the session answers the command itself, now. A literal that comes anyway is
        read over. False: it is too large for that, and the connection should be closed."""
        started = self._take_appending()
        if started.is_synchronizing:
            self._reader = self._read_command
            return True
        self._remaining = started.size_bytes
        self._reader = self._read_swallowed
        return started.size_bytes <= self._swallow_limit

    def _take_appending(self) -> AppendStarted:
        started, self._appending = self._appending, None
        if started is None:
            raise MachineMisuse("no message literal is waiting for an answer")
        return started

    @property
    def _swallow_limit(self) -> int:
        return MAX_SWALLOWED_BYTES if self.is_authenticated else MAX_SWALLOWED_BYTES_UNAUTHENTICATED

    # --- commands ---

    def _read_command(self) -> _Read:
        end = self._buffer.find(b"\n", self._scanned)
        limit = MAX_LINE_BYTES if self.is_authenticated else MAX_LINE_BYTES_UNAUTHENTICATED
        if end < 0:
            if len(self._buffer) <= limit:
                self._scanned = len(self._buffer)
                return None
            return self._skip_line(self._buffer, "Line is too long")
        if end > limit:
            return self._skip_line(self._buffer, "Line is too long")
        line = self._take_line(end)
        if line.endswith(b"}") and (literal := _LITERAL.search(line)):
            return self._start_literal(line, literal)
        if self._parts:
            line = bytes(self._parts + line)
            self._parts.clear()
            self._literals = 0
        return self._finish_command(line)

    def _take_line(self, end: int) -> bytes:
        """The line before ``end``, taken off the buffer. A bare LF ends a line too: nothing hangs on it."""
        stop = end - 1 if end and self._buffer[end - 1] == 0x0D else end
        line = bytes(self._buffer[:stop])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line

    def _finish_command(self, command: bytes) -> Event:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return failure
        match = _COMMAND.match(command)
        if match is None:
            return _bad(command, "Expected a tag and a command")
        tag, name, args = match.groups()
        if args and args[0] != 0x20:
            return BadInput(tag, "Expected a space after the command")
        if b"\0" in args and b"~{" not in args:
            return BadInput(tag, "NUL in a command")
        return CommandReady(tag, name.upper(), args)

    # --- literals inside commands ---

    def _start_literal(self, line: bytes, literal: re.Match[bytes]) -> _Read:
        size, is_synchronizing, is_binary = int(literal[2]), not literal[3], bool(literal[1])
        before = bytes(self._parts + line[: literal.start()])
        if not (is_synchronizing or self.takes_unasked_literals):
            self._failure = self._failure or _bad(before, "LITERAL+ is not available to this client")
            return self._refuse_folded(before, size, is_synchronizing=False)
        append = _APPEND.match(before)
        if append is not None and self._failure is None and b"\0" not in before:
            self._parts.clear()
            self._literals = 0
            self._appending = AppendStarted(append[1], append[2], size, is_synchronizing, is_binary)
            self._reader = self._read_nothing
            return self._appending
        limit = MAX_COMMAND_BYTES if self.is_authenticated else MAX_COMMAND_BYTES_UNAUTHENTICATED
        self._literals += 1
        if len(before) + size > limit or self._literals > MAX_LITERALS:
            return self._refuse_folded(before, size, is_synchronizing=is_synchronizing)
        if b"\0" in line:
            self._failure = self._failure or _bad(before, "NUL in a command")
        self._parts += line + b"\r\n"
        self._remaining = size
        self._binary_literal = is_binary
        if is_synchronizing:
            self._out.append(responses.continuation())
        self._reader = self._read_folded
        return _AGAIN

    def _refuse_folded(self, before: bytes, size: int, *, is_synchronizing: bool) -> _Read:
        self._parts.clear()
        self._literals = 0
        failure = self._failure or _bad(before, "Literal is too large")
        self._failure = None
        if is_synchronizing:
            return failure
        self._failure = failure
        return self._swallow(size)

    def _read_folded(self) -> _Read:
        if len(self._buffer) < self._remaining:
            return None
        data = self._buffer[: self._remaining]
        del self._buffer[: self._remaining]
        if b"\0" in data and not self._binary_literal and self._failure is None:
            self._failure = _bad(bytes(self._parts), "NUL in a literal")
        self._parts += data
        self._remaining = 0
        self._reader = self._read_command
        return _AGAIN

    # --- the message literal ---

    def _read_nothing(self) -> None:
        """The session has not said yet what shall become of the literal."""
        return

    def _read_streamed(self) -> _Read:
        if self._remaining:
            data = self._take_octets()
            return LiteralData(data) if data else None
        end = self._buffer.find(b"\n")
        if end < 0 and len(self._buffer) <= MAX_LINE_BYTES:
            return None
        self._reader = self._read_command
        if 0 <= end <= MAX_LINE_BYTES:
            return self._end_streamed(self._take_line(end))
        self._reader = self._read_skipped
        return LiteralEnded(b" " + bytes(self._buffer[:_MAX_TAG_BYTES]))

    def _end_streamed(self, rest: bytes) -> Event:
        """Should another literal be announced behind the first, it belongs to a command that failed."""
        literal = _LITERAL.search(rest)
        if literal is not None and literal[3]:
            self._remaining = int(literal[2])
            self._reader = self._read_swallowed
        return LiteralEnded(rest)

    def _take_octets(self) -> bytes:
        data = bytes(self._buffer[: self._remaining])
        del self._buffer[: self._remaining]
        self._remaining -= len(data)
        return data

    # --- skipping what was refused ---

    def _skip_line(self, start: bytearray, text: str) -> _Read:
        self._failure = self._failure or _bad(bytes((self._parts + start)[: 2 * _MAX_TAG_BYTES]), text)
        self._parts.clear()
        self._literals = self._scanned = 0
        self._reader = self._read_skipped
        return _AGAIN

    def _read_skipped(self) -> _Read:
        """Drop up to the line end; but a non-synchronizing literal announced there belongs to the line."""
        end = self._buffer.find(b"\n")
        if end < 0:
            self._skipped += max(0, len(self._buffer) - _MAX_LITERAL_SUFFIX)
            del self._buffer[:-_MAX_LITERAL_SUFFIX]
            return self._give_up() if self._skipped > self._swallow_limit else None
        tail = self._buffer[max(0, end - _MAX_LITERAL_SUFFIX) : end].rstrip(b"\r")
        self._skipped += end + 1
        del self._buffer[: end + 1]
        literal = _LITERAL.search(tail)
        if literal is not None and literal[3]:
            return self._swallow(int(literal[2]))
        self._reader = self._read_command
        self._skipped = 0
        failure, self._failure = self._failure, None
        return failure if failure is not None else _AGAIN

    def _swallow(self, size: int) -> _Read:
        """A literal that nobody wants comes all the same."""
        self._skipped += size
        if self._skipped > self._swallow_limit:
            return self._give_up()
        self._remaining = size
        self._reader = self._read_swallowed
        return _AGAIN

    def _give_up(self) -> BadInput:
        """Reading over the rest would be work without end."""
        failure, self._failure = self._failure or BadInput(None, "Line is too long"), None
        self._reader = self._read_nothing
        return BadInput(failure.tag, failure.text, fatal=True)

    def _read_swallowed(self) -> _Read:
        dropped = min(self._remaining, len(self._buffer))
        del self._buffer[:dropped]
        self._remaining -= dropped
        if self._remaining:
            return None
        self._reader = self._read_skipped
        return _AGAIN

    # --- single lines: SASL responses, DONE ---

    def _read_line(self) -> _Read:
        end = self._buffer.find(b"\n", self._scanned)
        limit = MAX_LINE_BYTES if self.is_authenticated else MAX_LINE_BYTES_UNAUTHENTICATED
        if end < 0 and len(self._buffer) <= limit:
            self._scanned = len(self._buffer)
            return None
        self._reader = self._read_command
        if 0 <= end <= limit:
            return LineReceived(self._take_line(end))
        self._scanned = 0
        self._reader = self._read_skipped
        return LineReceived(b"\0")  # no protocol's answer; the rest of the line is dropped unseen


def _bad(start: bytes, text: str) -> BadInput:
    match = _TAG_ONLY.match(start)
    return BadInput(match[1] if match is not None else None, text)
