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
from collections.abc import Callable, Sequence
from typing import ClassVar

from protocols.errors import MachineMisuse
from protocols.linemachine import LineMachine
from protocols.lines import Oversized
from protocols.xclient import BadXclient, parse_xclient
from storage.dsn import NO_MESSAGE_WISHES, NO_WISHES

from . import arguments, replies
from .arguments import Refused
from .events import (
    OWES_REPLY,
    Content,
    DataRequested,
    Ends,
    Event,
    GiveUp,
    Lhlo,
    MailFrom,
    Quit,
    RcptTo,
    StartTls,
    TransactionDropped,
    XClient,
)
from .grammar import BadSyntax, parse_chunk, parse_helo_name
from .replies import Reply

# RFC 5321 §4.5.3.1.4 asks for 512; SIZE, BODY, SMTPUTF8, 320 characters of UTF-8 address and the parameters
# of RFC 3461 come on top.
MAX_COMMAND_BYTES = 2048
# Syntax errors and unknown commands; a client that makes more is not an MTA.
MAX_ERRORS = 20
_COUNTED_CODES = frozenset({500, 501, 502, 555})


class _Mode(enum.Enum):
    COMMAND = "command"
    DATA = "data"
    CHUNK = "chunk"
    SKIP = "skip"  # a chunk that nobody wants
    PAUSED = "paused"


_READS_DATA = frozenset({_Mode.DATA, _Mode.CHUNK, _Mode.SKIP})


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
        except Refused as refused:
            return self._refuse(refused.reply)
        return self._owing(event) if isinstance(event, OWES_REPLY) else event

    def _refuse(self, reply: Reply) -> Event | None:
        self._out.append(reply.encode())
        self._errors += reply.code in _COUNTED_CODES
        if self._errors < MAX_ERRORS:
            return None
        self._out.append(replies.TOO_MANY_ERRORS.encode())
        return GiveUp()

    def _parse(self, line: bytes | Oversized) -> Event | None:
        if isinstance(line, Oversized):
            raise Refused(replies.LINE_TOO_LONG)
        try:
            # RFC 5321 §4.1.1 asks servers to bear with blanks before the line end
            verb, _, argument = line.decode("utf-8").rstrip(" \t").partition(" ")
        except UnicodeDecodeError:
            raise Refused(replies.BAD_SYNTAX) from None
        parser = self._VERBS.get(verb.upper())
        if parser is None:
            raise Refused(replies.UNKNOWN_COMMAND)
        return parser(self, argument)

    # --- commands ---

    def _lhlo(self, argument: str) -> Event:
        try:
            return Lhlo(parse_helo_name(argument))
        except BadSyntax:
            raise Refused(replies.BAD_SYNTAX) from None

    def _helo(self, argument: str) -> Event:
        raise Refused(replies.SAY_LHLO)  # RFC 2033 §4.1: never a positive reply

    def _mail(self, argument: str) -> Event:
        if not self._is_greeted:
            raise Refused(replies.NEEDS_LHLO)
        if self._sender_given:
            raise Refused(replies.NESTED_MAIL)
        path, parameters = arguments.path(argument, "FROM:", replies.BAD_SENDER)
        event = MailFrom(
            path,
            size_bytes=arguments.size(parameters),
            is_binary=arguments.body(parameters) == "BINARYMIME",
            has_smtputf8=arguments.flag(parameters, "SMTPUTF8"),
            dsn=arguments.message_dsn(parameters) if self._takes_dsn else NO_MESSAGE_WISHES,
        )
        if parameters:
            raise Refused(replies.UNKNOWN_PARAMETER)
        if not (path.is_ascii or event.has_smtputf8):
            raise Refused(replies.NEEDS_SMTPUTF8)
        return event

    def _rcpt(self, argument: str) -> Event:
        if not self._sender_given:
            raise Refused(replies.NEEDS_MAIL)
        if self._has_chunks:
            raise Refused(replies.CHUNKS_OPEN)
        path, parameters = arguments.path(argument, "TO:", replies.BAD_RECIPIENT)
        dsn = NO_WISHES
        if self._takes_dsn:
            dsn = arguments.recipient_dsn(parameters, has_smtputf8=self._has_smtputf8)
        if parameters:
            raise Refused(replies.UNKNOWN_PARAMETER)
        if not path.raw:
            raise Refused(replies.BAD_RECIPIENT)
        if not (path.is_ascii or self._has_smtputf8):
            raise Refused(replies.NEEDS_SMTPUTF8)
        return RcptTo(path, dsn)

    def _data(self, argument: str) -> Event:
        if argument:
            raise Refused(replies.BAD_SYNTAX)
        if self._has_chunks:
            raise Refused(replies.CHUNKS_OPEN)
        if not self._recipients:  # RFC 2033 §4.2
            raise Refused(replies.NEEDS_RECIPIENT if self._sender_given else replies.NEEDS_MAIL)
        if self._is_binary:  # RFC 3030 §3
            raise Refused(replies.BINARY_NEEDS_BDAT)
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
            raise Refused(replies.BAD_SYNTAX)
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
        raise Refused(replies.NOT_IMPLEMENTED)

    def _starttls(self, argument: str) -> Event:
        if argument.strip():
            raise Refused(replies.BAD_SYNTAX)
        if self._has_chunks:
            raise Refused(replies.CHUNKS_OPEN)
        return StartTls()

    def _xclient(self, argument: str) -> Event:
        if not self._takes_xclient:
            raise Refused(replies.UNKNOWN_COMMAND)
        if self._sender_given:
            raise Refused(replies.NESTED_XCLIENT)
        try:
            return XClient(parse_xclient(argument))
        except BadXclient:
            raise Refused(replies.BAD_SYNTAX) from None

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
