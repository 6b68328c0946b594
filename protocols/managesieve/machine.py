"""ManageSieve as a pure machine (RFC 5804): bytes to events, replies to bytes.

Theory: a command is lines and literals, collected as tokens until its last line has come; ``commands`` says
what each verb takes and in which state. The one string that may be large, the script of PUTSCRIPT and
CHECKSCRIPT, is announced before it comes: the session takes it or refuses it. *State follows the session's
replies*: OK to AUTHENTICATE logs in, OK to UNAUTHENTICATE logs out.

Invariants: every command gets exactly one reply, in order. ``next_event`` while a reply is owed raises
MachineMisuse. Foreign bytes raise nothing. The octets of a literal are never read as commands, those of a
refused command neither; where nobody can tell them any more, or they are too many, the connection ends (BYE).
"""

from __future__ import annotations

import base64
import enum

from protocols.errors import MachineMisuse
from protocols.linemachine import LineMachine
from protocols.lines import Oversized
from protocols.sasl import MAX_RESPONSE_BYTES

from . import grammar, replies
from .commands import (
    Authenticate,
    Event,
    GiveUp,
    Noop,
    Refused,
    SaslResponse,
    ScriptAnnounced,
    StartTls,
    State,
    Unauthenticate,
    sasl_response,
    verb_of,
)
from .grammar import Announced, BadSyntax, Text, Token
from .replies import Reply, Status

# One SASL response and the words before it; script names are shorter.
MAX_LINE_BYTES = MAX_RESPONSE_BYTES + 1024
# Of a string that is no script.
MAX_STRING_BYTES = MAX_RESPONSE_BYTES
# RENAMESCRIPT has three, and nothing has more.
MAX_TOKENS = 4
# A refused literal is on its way already: read over up to this size, beyond it closing is kinder to both.
MAX_SKIPPED_BYTES = 4 * 1024 * 1024
MAX_SKIPPED_BYTES_UNAUTHENTICATED = 64 * 1024
# Bad syntax, unknown commands and failed logins of one connection.
MAX_ERRORS = 10


class _Mode(enum.Enum):
    LINE = "line"
    LITERAL = "literal"
    SKIP = "skip"  # a literal that nobody wants
    PAUSED = "paused"


class ManageSieveMachine(LineMachine):
    """One connection. Pull ``next_event``, answer with ``send`` or ``challenge``; a script that is announced,
    with ``accept_script`` or ``refuse_script``."""

    __slots__ = (
        "_errors",
        "_is_in_sasl",
        "_is_over",
        "_left",
        "_literal",
        "_mode",
        "_owed",
        "_refusal",
        "_state",
        "_tokens",
        "answer",
    )

    def __init__(self) -> None:
        super().__init__(MAX_LINE_BYTES)
        self._owed: Event | None = None
        self.answer: Reply | None = None  # to the last event; None: a challenge, or not yet
        self._errors = 0
        self._is_over = False
        self._state = State.NEW
        self._is_in_sasl = False
        self._begin_command()

    def _begin_command(self) -> None:
        self._mode = _Mode.LINE
        self._tokens: list[Token] = []  # of the command so far
        self._refusal: Reply | None = None  # what the command gets once all of it has come
        self._literal = bytearray()
        self._left = 0  # octets of the literal that have not come

    # --- bytes ---

    def discard_input(self) -> int:
        if self._owed is None and self._mode is not _Mode.PAUSED:
            self._begin_command()
        return super().discard_input()

    @property
    def owes_reply(self) -> bool:
        """An event is at hand and its status line is not sent."""
        return self._owed is not None

    @property
    def is_mid_input(self) -> bool:
        return self._is_mid_command or self._buffer.is_mid_line

    # --- replies ---

    def announce(self, reply: Reply, before: bytes = b"") -> None:
        """What no command asked for: capabilities at the start and after TLS, and the last word."""
        self._out.append(before + reply.encode())

    def send(self, reply: Reply, before: bytes = b"") -> None:
        """The status line for the event at hand, behind the lines ``before``."""
        event = self._take_owed()
        if isinstance(event, ScriptAnnounced):
            raise MachineMisuse("an announced script is accepted or refused")
        self.answer = reply
        self._out.append(before + reply.encode())
        self._is_in_sasl = False
        if isinstance(event, StartTls) and reply.is_ok:
            self._mode = _Mode.PAUSED
        elif isinstance(event, Unauthenticate) and reply.is_ok:
            self._state = State.NEW
        elif isinstance(event, Authenticate | SaslResponse):
            if reply.is_ok:
                self._state = State.LOGGED_IN
            elif reply.code != replies.TRYLATER:  # a refusal that is the client's fault
                self._errors += 1

    def challenge(self, data: bytes) -> None:
        """Ask for one more SASL response."""
        event = self._take_owed()
        if not isinstance(event, Authenticate | SaslResponse):
            raise MachineMisuse("a challenge belongs to AUTHENTICATE")
        self._out.append(grammar.string(base64.b64encode(data)) + b"\r\n")
        self._is_in_sasl = True

    def accept_script(self) -> None:
        """Let it come; the event follows when it is there."""
        self._left = self._take_announced().size_bytes
        self._mode = _Mode.LITERAL

    def refuse_script(self, reply: Reply) -> None:
        """The command gets this reply once its literal has been read over; with BYE in it when the literal is
        too large for that."""
        announced = self._take_announced()
        self._refusal = self.answer = reply
        self._skip(announced.size_bytes)

    def tls_started(self) -> None:
        """The handshake is done; what the client said before is forgotten (RFC 5804 §2.2)."""
        self._begin_command()

    def _take_owed(self) -> Event:
        event, self._owed = self._owed, None
        if event is None:
            raise MachineMisuse("no reply is owed")
        self.answer = None
        return event

    def _take_announced(self) -> ScriptAnnounced:
        event = self._take_owed()
        if not isinstance(event, ScriptAnnounced):
            raise MachineMisuse("no script is announced")
        return event

    # --- events ---

    def next_event(self) -> Event | None:
        if self._owed is not None:
            raise MachineMisuse(f"no reply was sent to {self._owed!r}")
        while self._mode is not _Mode.PAUSED:
            if self._is_over:
                return GiveUp()
            if self._errors >= MAX_ERRORS and not self._is_mid_command:
                self._end(replies.TOO_MANY_ERRORS)
                continue
            if not self._read():
                return None
            if self._owed is not None:
                return self._owed
        return None

    @property
    def _is_mid_command(self) -> bool:
        return bool(self._tokens) or self._refusal is not None or self._left > 0

    def _read(self) -> bool:
        """One line or piece of a literal; whether there was one."""
        if self._mode is _Mode.SKIP:
            self._left -= self._buffer.skip(self._left)
            return self._literal_ended()
        if self._mode is _Mode.LITERAL:
            piece = self._buffer.take(self._left)
            self._literal += piece
            self._left -= len(piece)
            return self._literal_ended()
        line = self._buffer.next_line()
        if line is None:
            return False
        self._take_line(line)
        return True

    def _literal_ended(self) -> bool:
        if self._left:
            return False
        if self._mode is _Mode.LITERAL:
            self._tokens.append(Text(bytes(self._literal)))
            self._literal = bytearray()
        self._mode = _Mode.LINE
        return True

    def _take_line(self, line: bytes | Oversized) -> None:
        if isinstance(line, Oversized):
            self._end(replies.LINE_TOO_LONG)  # it may have announced a literal
            return
        literal: Announced | None
        try:
            if self._refusal is not None:
                raise BadSyntax
            tokens, literal = grammar.read_line(line, is_rest=bool(self._tokens))
            self._tokens += tokens
            if len(self._tokens) + (literal is not None) > MAX_TOKENS:
                raise BadSyntax
        except BadSyntax:
            self._refuse(replies.BAD_SYNTAX)
            literal = grammar.announced(line)
        if literal is None:
            self._finish_command()
        elif literal.is_synchronizing:
            self._end(replies.WAITING_LITERAL)  # whether its octets come or not nobody can tell
        else:
            self._begin_literal(literal.size_bytes)

    def _refuse(self, reply: Reply) -> None:
        """By the first thing that is wrong."""
        if self._refusal is None:
            self._refusal = reply
            self._errors += 1

    def _end(self, reply: Reply) -> None:
        self._out.append(reply.encode())
        self._begin_command()
        self._is_over = True

    def _begin_literal(self, size_bytes: int) -> None:
        if self._refusal is None:
            try:
                if not self._is_in_sasl and verb_of(self._tokens, self._state).takes_script(self._tokens[1:]):
                    self._owed = ScriptAnnounced(self._tokens[0].value.upper(), size_bytes)
                    return
                if size_bytes > MAX_STRING_BYTES:
                    raise Refused(replies.STRING_TOO_LONG)
            except Refused as refused:
                self._refuse(refused.reply)
        if self._refusal is not None:
            self._skip(size_bytes)
            return
        self._left = size_bytes
        self._mode = _Mode.LITERAL

    def _skip(self, size_bytes: int) -> None:
        is_known = self._state is State.LOGGED_IN
        if size_bytes > (MAX_SKIPPED_BYTES if is_known else MAX_SKIPPED_BYTES_UNAUTHENTICATED):
            assert self._refusal is not None
            self._end(Reply(Status.BYE, self._refusal.text, self._refusal.code))
            return
        self._left = size_bytes
        self._mode = _Mode.SKIP

    def _finish_command(self) -> None:
        try:
            event = self._parse() if self._refusal is None else None
        except Refused as refused:
            self._refuse(refused.reply)
            event = None
        if isinstance(event, Noop):
            self._out.append((replies.DONE if event.tag is None else replies.tagged(event.tag)).encode())
        elif event is not None:
            self._owed = event
        elif self._errors < MAX_ERRORS:
            assert self._refusal is not None
            self._out.append(self._refusal.encode())
        if self._refusal is not None:
            self._is_in_sasl = False
        self._begin_command()

    def _parse(self) -> Event | Noop:
        if self._is_in_sasl:
            return sasl_response(self._tokens)
        return verb_of(self._tokens, self._state).event(self._tokens[1:])
