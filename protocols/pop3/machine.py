"""POP3 as a pure machine (RFC 1939, 2449, 2595, 5034): bytes to events, replies to bytes.

Theory: two command tables, one for each state; what is wrong in form or state is answered here, the rest are
events. ``logged_in`` moves from AUTHORIZATION to TRANSACTION; the session decides when.

Invariants: every command gets exactly one reply, in order. ``next_event`` while a reply is owed raises
MachineMisuse. Foreign bytes raise nothing.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from protocols.errors import MachineMisuse
from protocols.linemachine import LineMachine
from protocols.lines import Oversized
from protocols.sasl import MAX_RESPONSE_BYTES
from protocols.xclient import BadXclient, parse_xclient

from . import replies
from .replies import Err, Ok, Reply

# RFC 2449 §4 allows 255 octets; a PLAIN response in the AUTH command needs up to 1,024.
MAX_COMMAND_BYTES = 2048
# Bad syntax, unknown commands and failed logins of one connection.
MAX_ERRORS = 10
_MAX_NUMBER_DIGITS = 10


@dataclass(frozen=True, slots=True)
class User:
    name: str


@dataclass(frozen=True, slots=True)
class Pass:
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Auth:
    """Answer with ``challenge`` or ``send``."""

    mechanism: str
    initial: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SaslLine:
    """The client's answer to a challenge, as it came. Answer with ``challenge`` or ``send``."""

    line: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stls:
    """Answer with TLS_READY (the machine pauses until ``tls_started``) or a refusal."""


@dataclass(frozen=True, slots=True)
class XClient:
    """Who the client is, by a proxy that may say so."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Capa:
    pass


@dataclass(frozen=True, slots=True)
class Stat:
    pass


@dataclass(frozen=True, slots=True)
class List:
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Uidl:
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Retr:
    number: int


@dataclass(frozen=True, slots=True)
class Top:
    number: int
    lines: int


@dataclass(frozen=True, slots=True)
class Dele:
    number: int


@dataclass(frozen=True, slots=True)
class Rset:
    pass


@dataclass(frozen=True, slots=True)
class Quit:
    pass


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Too many errors. Close; no reply is owed."""


_Login = User | Pass | Auth | SaslLine
Event = _Login | Stls | XClient | Capa | Stat | List | Uidl | Retr | Top | Dele | Rset | Quit | GiveUp
_FREE_CODES = frozenset({"SYS/TEMP", "IN-USE"})  # refusals that are not the client's fault


class _Mode(enum.Enum):
    COMMAND = "command"
    SASL = "sasl"
    PAUSED = "paused"


class _Refused(Exception):
    def __init__(self, reply: Err) -> None:
        self.reply = reply


class Pop3Machine(LineMachine):
    """One connection. Pull ``next_event``, answer with ``send``, ``send_lines`` or ``challenge``. To whom
    ``takes_xclient`` is not given that command is not known."""

    __slots__ = ("_errors", "_mode", "_owed", "_takes_xclient", "_verbs", "answer")

    def __init__(self, *, takes_xclient: bool = False) -> None:
        super().__init__(MAX_COMMAND_BYTES)
        self._takes_xclient = takes_xclient
        self._owed: Event | None = None
        self.answer: Reply | None = None  # to the last event; None: a challenge, or not yet
        self._errors = 0
        self._mode = _Mode.COMMAND
        self._verbs = _AUTHORIZATION

    @property
    def owes_reply(self) -> bool:
        """An event is at hand and its status line is not sent."""
        return self._owed is not None

    @property
    def is_mid_input(self) -> bool:
        return self._buffer.is_mid_line

    # --- replies ---

    def announce(self, reply: Reply) -> None:
        """What no command asked for: the greeting, and the last word before closing."""
        self._out.append(reply.encode())

    def send(self, reply: Reply) -> None:
        """The status line for the event at hand; the lines of a long reply may follow as raw bytes."""
        event = self._take_owed()
        self.answer = reply
        self._out.append(reply.encode())
        self._set_mode(_Mode.PAUSED if isinstance(event, Stls) and isinstance(reply, Ok) else _Mode.COMMAND)
        if isinstance(reply, Err) and isinstance(event, _Login):
            self._errors += reply.code not in _FREE_CODES

    def send_lines(self, reply: Ok, lines: Iterable[str]) -> None:
        """A multi-line reply. The lines are ours, and none begins with a dot."""
        self.send(reply)
        self._out.append("".join(f"{line}\r\n" for line in (*lines, ".")).encode())

    def challenge(self, data: bytes) -> None:
        """Ask for one more SASL response."""
        event = self._take_owed()
        if not isinstance(event, Auth | SaslLine):
            raise MachineMisuse("a challenge belongs to AUTH")
        self._out.append(b"+ " + base64.b64encode(data) + b"\r\n")
        self._set_mode(_Mode.SASL)

    def logged_in(self) -> None:
        self._verbs = _TRANSACTION

    def tls_started(self) -> None:
        """The handshake is done (RFC 2595 §4)."""
        self._set_mode(_Mode.COMMAND)

    def _take_owed(self) -> Event:
        event, self._owed = self._owed, None
        if event is None:
            raise MachineMisuse("no reply is owed")
        self.answer = None
        return event

    def _set_mode(self, mode: _Mode) -> None:
        self._mode = mode
        self._buffer.max_line_bytes = MAX_RESPONSE_BYTES if mode is _Mode.SASL else MAX_COMMAND_BYTES

    # --- events ---

    def next_event(self) -> Event | None:
        if self._owed is not None:
            raise MachineMisuse(f"no reply was sent to {self._owed!r}")
        while self._mode is not _Mode.PAUSED:
            if self._errors >= MAX_ERRORS:
                return GiveUp()
            line = self._buffer.next_line()
            if line is None:
                return None
            if line is Oversized.ENDLESS:
                self._out.append(replies.LINE_TOO_LONG.encode())
                return GiveUp()
            try:
                self._owed = self._read(line)
            except _Refused as refused:
                self._refuse(refused.reply)
            if self._owed is not None:
                return self._owed
        return None

    def _refuse(self, reply: Err) -> None:
        self._set_mode(_Mode.COMMAND)
        self._errors += 1
        self._out.append((replies.TOO_MANY_ERRORS if self._errors >= MAX_ERRORS else reply).encode())

    def _read(self, line: bytes | Oversized) -> Event | None:
        if isinstance(line, Oversized):
            raise _Refused(replies.LINE_TOO_LONG)
        if self._mode is _Mode.SASL:
            return SaslLine(line)
        verb, _, argument = line.partition(b" ")
        key = verb.upper().decode("latin-1")
        parser = self._verbs.get(key)
        if key == "XCLIENT" and not self._takes_xclient:
            raise _Refused(replies.UNKNOWN_COMMAND)
        if parser is None:
            known = key in _AUTHORIZATION or key in _TRANSACTION
            raise _Refused(replies.WRONG_STATE if known else replies.UNKNOWN_COMMAND)
        return parser(self, argument)

    # --- commands ---

    def _user(self, argument: bytes) -> Event:
        try:
            name = argument.decode("utf-8")
        except UnicodeDecodeError:
            raise _Refused(replies.BAD_SYNTAX) from None
        if not name or "\0" in name:
            raise _Refused(replies.BAD_SYNTAX)
        return User(name)

    def _pass(self, argument: bytes) -> Event:
        # RFC 1939 §7: the whole rest of the line, spaces included
        return Pass(argument)

    def _auth(self, argument: bytes) -> Event:
        words = argument.split()
        if len(words) not in (1, 2):
            raise _Refused(replies.BAD_SYNTAX)
        return Auth(words[0].decode("latin-1").upper(), words[1] if len(words) == 2 else None)

    def _xclient(self, argument: bytes) -> Event:
        try:
            return XClient(parse_xclient(argument.decode("ascii")))
        except (BadXclient, UnicodeDecodeError):
            raise _Refused(replies.BAD_SYNTAX) from None

    def _noop(self, argument: bytes) -> None:
        _numbers(argument, 0)
        self._out.append(replies.NOOP.encode())


_Parser = Callable[[Pop3Machine, bytes], Event | None]


def _numbers(argument: bytes, *counts: int) -> list[int]:
    """As many decimal numbers as one of ``counts`` says."""
    words = argument.split()
    if len(words) not in counts or not all(
        word.isdigit() and len(word) <= _MAX_NUMBER_DIGITS for word in words
    ):
        raise _Refused(replies.BAD_SYNTAX)
    return [int(word) for word in words]


def _numbered(make: Callable[..., Event], *counts: int) -> _Parser:
    return lambda _machine, argument: make(*_numbers(argument, *counts))


_AUTHORIZATION: Mapping[str, _Parser] = {
    "USER": Pop3Machine._user,
    "PASS": Pop3Machine._pass,
    "AUTH": Pop3Machine._auth,
    "STLS": _numbered(Stls, 0),
    "XCLIENT": Pop3Machine._xclient,
    "CAPA": _numbered(Capa, 0),
    "QUIT": _numbered(Quit, 0),
}
_TRANSACTION: Mapping[str, _Parser] = {
    "CAPA": _numbered(Capa, 0),
    "STAT": _numbered(Stat, 0),
    "LIST": _numbered(List, 0, 1),
    "UIDL": _numbered(Uidl, 0, 1),
    "RETR": _numbered(Retr, 1),
    "TOP": _numbered(Top, 2),
    "DELE": _numbered(Dele, 1),
    "RSET": _numbered(Rset, 0),
    "NOOP": Pop3Machine._noop,
    "QUIT": _numbered(Quit, 0),
}
