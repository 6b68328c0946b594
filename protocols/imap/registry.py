"""What a command is: its name, where it is allowed, how it is read and how it runs.

A command lives in one module of ``commands`` and is listed in ``commands.COMMANDS``; the table, the
capability line and the state checks all come from there, so nothing can be announced that does not run.

To add a command: write ``commands/<name>.py`` with a ``Command`` value, add it to the tuple.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from .grammar import Cursor
    from .machine import AppendStarted
    from .session import ImapSession


class State(enum.Enum):
    """RFC 9051 §3. After LOGOUT nothing runs, so that state needs no member."""

    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"


ANY: Final = frozenset(State)
NOT_AUTHENTICATED: Final = frozenset({State.NOT_AUTHENTICATED})
AUTHENTICATED: Final = frozenset({State.AUTHENTICATED, State.SELECTED})
SELECTED: Final = frozenset({State.SELECTED})


@dataclass(frozen=True, slots=True)
class Tagged:
    """How a command ended."""

    text: str
    code: bytes | None = None
    status = b"OK"


class Ok(Tagged):
    __slots__ = ()


class No(Tagged):
    __slots__ = ()
    status = b"NO"


class Bad(Tagged):
    __slots__ = ()
    status = b"BAD"


@dataclass(frozen=True, slots=True)
class AwaitLine:
    """The command goes on with a line of the client, after this continuation (AUTHENTICATE, IDLE)."""

    continuation: bytes
    then: Callable[[bytes], Outcome | Awaitable[Outcome]]


# None: the command has written its tagged reply itself (STARTTLS).
Outcome: TypeAlias = Tagged | AwaitLine | None


class Transfer(Protocol):
    """A command whose message literal streams in (APPEND)."""

    def write(self, data: bytes) -> None:
        """Take a piece. Never raises: what went wrong is the outcome."""
        ...

    async def finish(self, rest: bytes) -> Outcome:
        """All octets are there; ``rest`` followed them on the line."""
        ...

    def close(self) -> None:
        """Give back what it holds. Idempotent; called in every case."""
        ...


@dataclass(frozen=True, slots=True)
class ParseContext:
    """What a parser may know beside the bytes."""

    uid: bool  # the command came as ``UID <name>``: numbers are uids
    enabled: frozenset[bytes]  # extensions the client enabled


Parse: TypeAlias = "Callable[[Cursor, ParseContext], Any]"
Run: TypeAlias = "Callable[[ImapSession, Any], Awaitable[Outcome] | Outcome]"
Start: TypeAlias = "Callable[[ImapSession, Any, AppendStarted], Awaitable[Transfer | Tagged]]"


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    ``parse`` reads the arguments, the leading space included, and raises ParseError; ``run`` executes
    them. Both ``FETCH`` and ``UID FETCH`` are one Command with ``has_uid_form``; its parser looks at
    ``ParseContext.uid`` and puts what it found into the arguments.
    """

    name: bytes
    states: frozenset[State]
    parse: Parse
    run: Run
    rfc: str
    capabilities: tuple[bytes, ...] = ()  # announced because this command is registered
    has_uid_form: bool = False
    # No EXPUNGE while its plain form runs, as its numbers would shift (RFC 9051 §7.5.1).
    withholds_expunge: bool = False
    # May take long and writes whole lines through the session only: the client is told that it goes on.
    reports_progress: bool = False
    start: Start | None = None  # takes a message literal: parsed arguments, and what the machine knows


class CommandTable:
    """Commands by name as the client spells them, in upper case."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self.commands = tuple(commands)
        self.plain = {command.name: command for command in self.commands}
        self.uid = {command.name: command for command in self.commands if command.has_uid_form}
        if len(self.plain) != len(self.commands):
            raise ValueError("two commands share a name")

    @property
    def capabilities(self) -> tuple[bytes, ...]:
        """What the registered commands bring along, each once, in the order of registration."""
        return tuple(dict.fromkeys(name for command in self.commands for name in command.capabilities))


def parse_nothing(cursor: Cursor, _context: ParseContext) -> None:
    """For commands without arguments."""
    cursor.end()
