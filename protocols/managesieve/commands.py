"""The commands of ManageSieve (RFC 5804 §2): what each verb takes, in which state, and what becomes of it.

To add a verb: an event, and a row in ``_VERBS``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from storage.errors import InvalidName
from storage.scripts import checked_name

from . import grammar, replies
from .grammar import BadSyntax, Text, Token, Word
from .replies import Reply


class State(enum.Flag):
    NEW = enum.auto()
    LOGGED_IN = enum.auto()
    ANY = NEW | LOGGED_IN


class Refused(Exception):
    """The command will not run."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


# --- events ---


@dataclass(frozen=True, slots=True)
class Capability:
    pass


@dataclass(frozen=True, slots=True)
class StartTls:
    """Answer with TLS_READY (the machine pauses until ``tls_started``) or a refusal."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Answer with ``challenge`` or ``send``; OK logs in."""

    mechanism: str
    initial: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The client's answer to a challenge, in base64 or ``*``. Answer with ``challenge`` or ``send``."""

    response: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unauthenticate:
    """OK logs out."""


@dataclass(frozen=True, slots=True)
class Noop:
    """Answered by the machine."""

    tag: bytes | None = None


@dataclass(frozen=True, slots=True)
class Logout:
    pass


@dataclass(frozen=True, slots=True)
class HaveSpace:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ScriptAnnounced:
    """The script of the command comes as a literal. Answer with ``accept_script`` or ``refuse_script``."""

    verb: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PutScript:
    name: str
    script: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckScript:
    script: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ListScripts:
    pass


@dataclass(frozen=True, slots=True)
class SetActive:
    name: str | None  # None: none


@dataclass(frozen=True, slots=True)
class GetScript:
    name: str


@dataclass(frozen=True, slots=True)
class DeleteScript:
    name: str


@dataclass(frozen=True, slots=True)
class RenameScript:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The conversation cannot go on; the reason is queued. Close; no reply is owed."""


Login = Authenticate | SaslResponse
_Script = PutScript | CheckScript | ListScripts | SetActive | GetScript | DeleteScript | RenameScript
Event = (
    Capability | StartTls | Login | Unauthenticate | Logout | HaveSpace | ScriptAnnounced | _Script | GiveUp
)


# --- what verbs take ---

_Reader = Callable[[Token], object]


def _text(token: Token) -> bytes:
    if not isinstance(token, Text):
        raise BadSyntax
    return token.value


def _script(token: Token) -> bytes:
    return _text(token)


def _name(token: Token) -> str:
    """In normalization form C: typed on another system it is the same name (RFC 5198 §3)."""
    try:
        return checked_name(_text(token).decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidName("name of a script that is not UTF-8") from None


def _name_or_none(token: Token) -> str | None:
    return _name(token) if _text(token) else None


def _mechanism(token: Token) -> str:
    return _text(token).decode("latin-1").upper()


@dataclass(frozen=True, slots=True)
class Verb:
    states: State
    make: Callable[..., Event | Noop]
    parameters: Sequence[_Reader] = ()
    optional: int = 0  # so many of them, from the end

    def takes_script(self, given: Sequence[Token]) -> bool:
        """Whether the string behind these arguments is a script. Raises Refused when they are wrong."""
        if len(given) >= len(self.parameters):
            raise Refused(replies.BAD_SYNTAX)
        self._values(given)
        return self.parameters[len(given)] is _script

    def event(self, given: Sequence[Token]) -> Event | Noop:
        """Raises Refused."""
        if not len(self.parameters) - self.optional <= len(given) <= len(self.parameters):
            raise Refused(replies.BAD_SYNTAX)
        return self.make(*self._values(given))

    def _values(self, given: Sequence[Token]) -> list[object]:
        try:
            return [read(token) for read, token in zip(self.parameters, given, strict=False)]
        except BadSyntax:
            raise Refused(replies.BAD_SYNTAX) from None
        except InvalidName as error:
            raise Refused(replies.bad_name(error)) from None


def verb_of(tokens: Sequence[Token], state: State) -> Verb:
    """The command that begins so. Raises Refused."""
    if not (tokens and isinstance(tokens[0], Word)):
        raise Refused(replies.BAD_SYNTAX)
    verb = _VERBS.get(tokens[0].value.upper())
    if verb is None:
        raise Refused(replies.UNKNOWN_COMMAND)
    if not state & verb.states:
        raise Refused(replies.NEEDS_LOGIN if state is State.NEW else replies.NEEDS_LOGOUT)
    return verb


def sasl_response(tokens: Sequence[Token]) -> SaslResponse:
    """What follows a challenge. Raises Refused."""
    if len(tokens) != 1 or not isinstance(tokens[0], Text):
        raise Refused(replies.BAD_SYNTAX)
    return SaslResponse(tokens[0].value)


def _authenticate(mechanism: str, initial: bytes | None = None) -> Event:
    return Authenticate(mechanism, initial)


_VERBS: Mapping[bytes, Verb] = {
    b"CAPABILITY": Verb(State.ANY, Capability),
    b"NOOP": Verb(State.ANY, Noop, (_text,), optional=1),
    b"LOGOUT": Verb(State.ANY, Logout),
    b"STARTTLS": Verb(State.NEW, StartTls),
    b"AUTHENTICATE": Verb(State.NEW, _authenticate, (_mechanism, _text), optional=1),
    b"UNAUTHENTICATE": Verb(State.LOGGED_IN, Unauthenticate),
    b"HAVESPACE": Verb(State.LOGGED_IN, HaveSpace, (_name, grammar.number)),
    b"PUTSCRIPT": Verb(State.LOGGED_IN, PutScript, (_name, _script)),
    b"CHECKSCRIPT": Verb(State.LOGGED_IN, CheckScript, (_script,)),
    b"LISTSCRIPTS": Verb(State.LOGGED_IN, ListScripts),
    b"SETACTIVE": Verb(State.LOGGED_IN, SetActive, (_name_or_none,)),
    b"GETSCRIPT": Verb(State.LOGGED_IN, GetScript, (_name,)),
    b"DELETESCRIPT": Verb(State.LOGGED_IN, DeleteScript, (_name,)),
    b"RENAMESCRIPT": Verb(State.LOGGED_IN, RenameScript, (_name, _name)),
}
