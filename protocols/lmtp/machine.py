"""LMTP as a pure machine (RFC 2033 on RFC 5321): bytes to events, replies to bytes.

Theory: the machine knows the grammar, the order of commands and the framing of messages. What it can refuse
by itself it refuses; the rest are events, and *state follows the session's replies*: a positive reply to MAIL
opens the transaction, one to RCPT adds a recipient, 354 switches to data.

Invariants: every command gets exactly one reply, in order; after a message there is one for each accepted
recipient, so that clients may send groups of commands at once (RFC 2920). ``next_event`` while a reply is
owed raises MachineMisuse. Foreign bytes raise nothing.

Message content is handed on byte for byte, bare CR and LF included. Only CRLF . CRLF ends DATA.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from protocols.errors import MachineMisuse
from protocols.linemachine import LineMachine
from protocols.lines import Oversized
from protocols.xclient import BadXclient, parse_xclient
from storage.dsn import NO_MESSAGE_WISHES, NO_WISHES, MessageDsn, RecipientDsn

from . import replies
from .grammar import (
    BadSyntax,
    Path,
    parse_chunk,
    parse_helo_name,
    parse_parameters,
    parse_path,
    take_message_dsn,
    take_recipient_dsn,
)
from .replies import Reply

# RFC 5321 §4.5.3.1.4 asks for 512; SIZE, BODY, SMTPUTF8, 320 characters of UTF-8 address and the parameters
# of RFC 3461 come on top.
MAX_COMMAND_BYTES = 2048
# Syntax errors and unknown commands; a client that makes more is not an MTA.
MAX_ERRORS = 20
_COUNTED_CODES = frozenset({500, 501, 502, 555})
_BODY_TYPES = frozenset({"7BIT", "8BITMIME", "BINARYMIME"})


@dataclass(frozen=True, slots=True)
class Lhlo:
    name: str


@dataclass(frozen=True, slots=True)
class MailFrom:
    path: Path
    size_bytes: int | None = None  # as declared
    is_binary: bool = False
    has_smtputf8: bool = False
    dsn: MessageDsn = NO_MESSAGE_WISHES


@dataclass(frozen=True, slots=True)
class RcptTo:
    path: Path
    dsn: RecipientDsn = NO_WISHES


@dataclass(frozen=True, slots=True)
class DataRequested:
    """Answer with SEND_DATA or a refusal."""


class Ends(enum.Enum):
    """What ends with a piece of content, and so which reply is owed."""

    NOTHING = "nothing"
    CHUNK = "chunk"  # one reply; a refusal ends the transaction
    MESSAGE = "message"  # one reply for each accepted recipient: ``send_each``


@dataclass(frozen=True, slots=True)
class Content:
    data: bytes
    ends: Ends = Ends.NOTHING


@dataclass(frozen=True, slots=True)
class TransactionDropped:
    """RSET; answered already."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """Answer with TLS_READY (the machine pauses until ``tls_started``) or a refusal."""


@dataclass(frozen=True, slots=True)
class XClient:
    """Who the client is, by a proxy that may say so. Answer with a greeting, and all begins anew, or with a
    refusal."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Quit:
    pass


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The conversation cannot go on; the reason is queued. Close."""


Event = (
    Lhlo
    | MailFrom
    | RcptTo
    | DataRequested
    | Content
    | TransactionDropped
    | StartTls
    | XClient
    | Quit
    | GiveUp
)
_OWES_REPLY = (Lhlo, MailFrom, RcptTo, DataRequested, StartTls, XClient, Quit)


class _Mode(enum.Enum):
    COMMAND = "command"
    DATA = "data"
    CHUNK = "chunk"
    SKIP = "skip"  # a chunk that nobody wants
    PAUSED = "paused"


_READS_DATA = frozenset({_Mode.DATA, _Mode.CHUNK, _Mode.SKIP})


class _Refused(Exception):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class LmtpMachine(LineMachine):
    """One connection. Pull ``next_event``, answer with ``send`` or ``send_each``. ``takes_xclient`` and
    ``takes_dsn``: what is not taken is not known."""

    __slots__ = (
        "_chunk_is_last",
        "_chunk_left",
        "_errors",
        "_has_chunks",
        "_has_smtputf8",
        "_is_binary",
        "_is_greeted",
        "_mode",
        "_owed",
        "_recipients",
        "_sender_given",
        "_skip_reply",
        "_takes_dsn",
        "_takes_xclient",
        "answer",
    )

    def __init__(self, *, takes_xclient: bool = False, takes_dsn: bool = False) -> None:
        super().__init__(MAX_COMMAND_BYTES)
        self._takes_xclient = takes_xclient
        self._takes_dsn = takes_dsn
        self._owed: Event | None = None
        self.answer: Reply | None = None  # to the last event; of several the worst; None: not yet
        self._errors = 0
        self._restart()

    def _restart(self) -> None:
        self._mode = _Mode.COMMAND
        self._is_greeted = False
        self._chunk_left = 0
        self._chunk_is_last = False
        self._skip_reply = replies.NEEDS_MAIL
        self._reset_transaction()

    def _reset_transaction(self) -> None:
        self._sender_given = self._is_binary = self._has_smtputf8 = self._has_chunks = False
        self._recipients = 0

    @property
    def is_mid_input(self) -> bool:
        return self._mode in _READS_DATA or self._buffer.is_mid_line

    # --- replies ---

    def greet(self, reply: Reply) -> None:
        """What no command asked for: the greeting, and 421 before closing."""
        self._out.append(reply.encode())

    def send(self, reply: Reply) -> None:
        """The one reply to the event at hand."""
        event = self._take_owed()
        if isinstance(event, Content) and event.ends is Ends.MESSAGE:
            raise MachineMisuse("a message is answered with send_each")
        self.answer = reply
        self._out.append(reply.encode())
        transition = self._TRANSITIONS.get(type(event))
        if transition is not None:
            transition(self, event, reply)

    def send_each(self, answers: Sequence[Reply]) -> None:
        """The replies to a message, in the order in which its recipients were accepted (RFC 2033 §4.2)."""
        event = self._take_owed()
        if not (isinstance(event, Content) and event.ends is Ends.MESSAGE):
            raise MachineMisuse("send_each answers messages only")
        if len(answers) != self._recipients:
            raise MachineMisuse(f"{len(answers)} replies for {self._recipients} recipients")
        self.answer = max(answers, key=lambda reply: reply.code)
        self._out.extend(reply.encode() for reply in answers)
        self._reset_transaction()

    def tls_started(self) -> None:
        """The handshake is done; everything starts anew (RFC 3207 §4.2)."""
        self._restart()

    def _take_owed(self) -> Event:
        event, self._owed = self._owed, None
        if event is None:
            raise MachineMisuse("no reply is owed")
        return event

    def _lhlo_answered(self, event: Event, reply: Reply) -> None:
        self._reset_transaction()
        self._is_greeted = reply.is_positive

    def _mail_answered(self, event: Event, reply: Reply) -> None:
        assert isinstance(event, MailFrom)
        self._sender_given = reply.is_positive
        self._is_binary, self._has_smtputf8 = event.is_binary, event.has_smtputf8

    def _rcpt_answered(self, event: Event, reply: Reply) -> None:
        self._recipients += reply.is_positive

    def _data_answered(self, event: Event, reply: Reply) -> None:
        if reply.is_positive:
            self._mode = _Mode.DATA
            self._buffer.start_dotted()

    def _chunk_answered(self, event: Event, reply: Reply) -> None:
        if not reply.is_positive:
            self._reset_transaction()

    def _starttls_answered(self, event: Event, reply: Reply) -> None:
        if reply.is_positive:
            self._mode = _Mode.PAUSED

    def _xclient_answered(self, event: Event, reply: Reply) -> None:
        if reply.is_positive:
            self._restart()

    _TRANSITIONS: ClassVar[dict[type, Callable[[LmtpMachine, Event, Reply], None]]] = {
        Lhlo: _lhlo_answered,
        MailFrom: _mail_answered,
        RcptTo: _rcpt_answered,
        DataRequested: _data_answered,
        Content: _chunk_answered,
        StartTls: _starttls_answered,
        XClient: _xclient_answered,
    }

    # --- events ---

    def next_event(self) -> Event | None:
        if self._owed is not None:
            raise MachineMisuse(f"no reply was sent to {self._owed!r}")
        while self._mode is not _Mode.PAUSED:
            if self._mode is _Mode.SKIP:
                if not self._skip_chunk():
                    return None
            elif self._mode is _Mode.DATA:
                return self._next_data()
            elif self._mode is _Mode.CHUNK:
                return self._next_chunk()
            else:
                line = self._buffer.next_line()
                if line is None:
                    return None
                event = self._read_command(line)
                if event is not None:
                    return event
        return None

    def _next_data(self) -> Event | None:
        data, is_end = self._buffer.take_dotted()
        if is_end:
            self._mode = _Mode.COMMAND
            return self._owing(Content(data, Ends.MESSAGE))
        return Content(data) if data else None

    def _next_chunk(self) -> Event | None:
        data = self._buffer.take(self._chunk_left)
        self._chunk_left -= len(data)
        if self._chunk_left:
            return Content(data) if data else None
        self._mode = _Mode.COMMAND
        return self._owing(Content(data, Ends.MESSAGE if self._chunk_is_last else Ends.CHUNK))

    def _skip_chunk(self) -> bool:
        self._chunk_left -= self._buffer.skip(self._chunk_left)
        if self._chunk_left:
            return False
        self._mode = _Mode.COMMAND
        self._out.append(self._skip_reply.encode())
        return True

    def _owing(self, event: Event) -> Event:
        self._owed = event
        return event

    def _read_command(self, line: bytes | Oversized) -> Event | None:
        if line is Oversized.ENDLESS:
            self._out.append(replies.LINE_TOO_LONG.encode())
            return GiveUp()
        try:
            event = self._parse(line)
        except _Refused as refused:
            return self._refuse(refused.reply)
        return self._owing(event) if isinstance(event, _OWES_REPLY) else event

    def _refuse(self, reply: Reply) -> Event | None:
        self._out.append(reply.encode())
        self._errors += reply.code in _COUNTED_CODES
        if self._errors < MAX_ERRORS:
            return None
        self._out.append(replies.TOO_MANY_ERRORS.encode())
        return GiveUp()

    def _parse(self, line: bytes | Oversized) -> Event | None:
        if isinstance(line, Oversized):
            raise _Refused(replies.LINE_TOO_LONG)
        try:
            # RFC 5321 §4.1.1 asks servers to bear with blanks before the line end
            verb, _, argument = line.decode("utf-8").rstrip(" \t").partition(" ")
        except UnicodeDecodeError:
            raise _Refused(replies.BAD_SYNTAX) from None
        parser = self._VERBS.get(verb.upper())
        if parser is None:
            raise _Refused(replies.UNKNOWN_COMMAND)
        return parser(self, argument)

    # --- commands ---

    def _lhlo(self, argument: str) -> Event:
        try:
            return Lhlo(parse_helo_name(argument))
        except BadSyntax:
            raise _Refused(replies.BAD_SYNTAX) from None

    def _helo(self, argument: str) -> Event:
        raise _Refused(replies.SAY_LHLO)  # RFC 2033 §4.1: never a positive reply

    def _mail(self, argument: str) -> Event:
        if not self._is_greeted:
            raise _Refused(replies.NEEDS_LHLO)
        if self._sender_given:
            raise _Refused(replies.NESTED_MAIL)
        path, parameters = _path_argument(argument, "FROM:", replies.BAD_SENDER)
        event = MailFrom(
            path,
            size_bytes=_size_parameter(parameters),
            is_binary=_body_parameter(parameters) == "BINARYMIME",
            has_smtputf8=_flag_parameter(parameters, "SMTPUTF8"),
            dsn=self._message_dsn(parameters),
        )
        if parameters:
            raise _Refused(replies.UNKNOWN_PARAMETER)
        if not (path.is_ascii or event.has_smtputf8):
            raise _Refused(replies.NEEDS_SMTPUTF8)
        return event

    def _rcpt(self, argument: str) -> Event:
        if not self._sender_given:
            raise _Refused(replies.NEEDS_MAIL)
        if self._has_chunks:
            raise _Refused(replies.CHUNKS_OPEN)
        path, parameters = _path_argument(argument, "TO:", replies.BAD_RECIPIENT)
        dsn = self._recipient_dsn(parameters)
        if parameters:
            raise _Refused(replies.UNKNOWN_PARAMETER)
        if not path.raw:
            raise _Refused(replies.BAD_RECIPIENT)
        if not (path.is_ascii or self._has_smtputf8):
            raise _Refused(replies.NEEDS_SMTPUTF8)
        return RcptTo(path, dsn)

    def _message_dsn(self, parameters: dict[str, str | None]) -> MessageDsn:
        if not self._takes_dsn:
            return NO_MESSAGE_WISHES
        try:
            return take_message_dsn(parameters)
        except BadSyntax:
            raise _Refused(replies.BAD_PARAMETER) from None

    def _recipient_dsn(self, parameters: dict[str, str | None]) -> RecipientDsn:
        if not self._takes_dsn:
            return NO_WISHES
        try:
            return take_recipient_dsn(parameters, has_smtputf8=self._has_smtputf8)
        except BadSyntax:
            raise _Refused(replies.BAD_PARAMETER) from None

    def _data(self, argument: str) -> Event:
        if argument:
            raise _Refused(replies.BAD_SYNTAX)
        if self._has_chunks:
            raise _Refused(replies.CHUNKS_OPEN)
        if not self._recipients:  # RFC 2033 §4.2
            raise _Refused(replies.NEEDS_RECIPIENT if self._sender_given else replies.NEEDS_MAIL)
        if self._is_binary:  # RFC 3030 §3
            raise _Refused(replies.BINARY_NEEDS_BDAT)
        return DataRequested()

    def _bdat(self, argument: str) -> Event | None:
        try:
            self._chunk_left, self._chunk_is_last = parse_chunk(argument)
        except BadSyntax:
            self._out.append(replies.LOST_CHUNK.encode())
            return GiveUp()  # where the next command begins is unknown
        if self._recipients:
            self._mode = _Mode.CHUNK
            self._has_chunks = True
        else:  # RFC 3030 §2: the octets come, whatever we think of them
            self._mode = _Mode.SKIP
            self._skip_reply = replies.NEEDS_RECIPIENT if self._sender_given else replies.NEEDS_MAIL
        return None

    def _rset(self, argument: str) -> Event:
        if argument.strip():
            raise _Refused(replies.BAD_SYNTAX)
        self._reset_transaction()
        self.answer = replies.OK
        self._out.append(replies.OK.encode())
        return TransactionDropped()

    def _noop(self, argument: str) -> None:
        self._out.append(replies.OK.encode())

    def _vrfy(self, argument: str) -> None:
        self._out.append(replies.VERIFY.encode())

    def _help(self, argument: str) -> None:
        self._out.append(replies.HELP.encode())

    def _expn(self, argument: str) -> Event:
        raise _Refused(replies.NOT_IMPLEMENTED)

    def _starttls(self, argument: str) -> Event:
        if argument.strip():
            raise _Refused(replies.BAD_SYNTAX)
        if self._has_chunks:
            raise _Refused(replies.CHUNKS_OPEN)
        return StartTls()

    def _xclient(self, argument: str) -> Event:
        if not self._takes_xclient:
            raise _Refused(replies.UNKNOWN_COMMAND)
        if self._sender_given:
            raise _Refused(replies.NESTED_XCLIENT)
        try:
            return XClient(parse_xclient(argument))
        except BadXclient:
            raise _Refused(replies.BAD_SYNTAX) from None

    def _quit(self, argument: str) -> Event:
        return Quit()

    _VERBS: ClassVar[dict[str, Callable[[LmtpMachine, str], Event | None]]] = {
        "LHLO": _lhlo,
        "HELO": _helo,
        "EHLO": _helo,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "BDAT": _bdat,
        "RSET": _rset,
        "NOOP": _noop,
        "VRFY": _vrfy,
        "EXPN": _expn,
        "HELP": _help,
        "STARTTLS": _starttls,
        "XCLIENT": _xclient,
        "QUIT": _quit,
    }


def _path_argument(argument: str, prefix: str, refusal: Reply) -> tuple[Path, dict[str, str | None]]:
    argument = argument.lstrip(" ")
    if argument[: len(prefix)].upper() != prefix:
        raise _Refused(replies.BAD_SYNTAX)
    try:
        path, rest = parse_path(argument[len(prefix) :])
    except BadSyntax:
        raise _Refused(refusal) from None
    try:
        return path, parse_parameters(rest)
    except BadSyntax:
        raise _Refused(replies.BAD_SYNTAX) from None


def _size_parameter(parameters: dict[str, str | None]) -> int | None:
    """RFC 1870 §3."""
    if "SIZE" not in parameters:
        return None
    value = parameters.pop("SIZE") or ""
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise _Refused(replies.BAD_PARAMETER)
    return int(value)


def _body_parameter(parameters: dict[str, str | None]) -> str:
    """RFC 6152 §2, RFC 3030 §3."""
    if "BODY" not in parameters:
        return "7BIT"
    value = (parameters.pop("BODY") or "").upper()
    if value not in _BODY_TYPES:
        raise _Refused(replies.BAD_PARAMETER)
    return value


def _flag_parameter(parameters: dict[str, str | None], key: str) -> bool:
    if key not in parameters:
        return False
    if parameters.pop(key) is not None:
        raise _Refused(replies.BAD_PARAMETER)
    return True
