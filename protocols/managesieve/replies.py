"""Every reply of the ManageSieve server, with the response codes of RFC 5804 §1.3.

``ERRORS`` says what a storage error means to the client: ``TRYLATER`` leaves everything as it is and makes
the client try again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from protocols.ports import Goodbye
from protocols.starttls import Obstacle
from storage import errors

from . import grammar


class Status(enum.Enum):
    OK = b"OK"
    NO = b"NO"
    BYE = b"BYE"


@dataclass(frozen=True, slots=True)
class Reply:
    """``code`` is a response code without parentheses, or empty."""

    status: Status
    text: str
    code: bytes = b""

    @property
    def is_ok(self) -> bool:
        return self.status is Status.OK

    def encode(self) -> bytes:
        code = b"(%b) " % self.code if self.code else b""
        text = "\r\n".join(self.text.splitlines())
        return b"%b %b%b\r\n" % (self.status.value, code, grammar.string(text.encode()))


def ok(text: str, code: bytes = b"") -> Reply:
    return Reply(Status.OK, text, code)


def no(text: str, code: bytes = b"") -> Reply:
    return Reply(Status.NO, text, code)


def bye(text: str, code: bytes = b"") -> Reply:
    return Reply(Status.BYE, text, code)


TRYLATER = b"TRYLATER"
MAXSIZE = b"QUOTA/MAXSIZE"

READY = ok("Sora ManageSieve server ready")
CAPABILITIES = ok("That is all")
TLS_READY = ok("Begin TLS")
TLS_IS_ON = ok("TLS is on")
LOGGED_IN = ok("Logged in")
LOGGED_OUT = ok("Nobody is logged in")
GOODBYE = ok("Bye")
DONE = ok("Done")
HAS_SPACE = ok("It would fit")
COMPILES = ok("The script is correct")
STORED = ok("Script stored")
ACTIVATED = ok("Script is active")
DEACTIVATED = ok("No script is active")
DELETED = ok("Script deleted")
RENAMED = ok("Script renamed")

LINE_TOO_LONG = bye("Line too long")
WAITING_LITERAL = bye("Literals are sent at once here, with {n+}")
UNKNOWN_COMMAND = no("Command not known")
NEEDS_LOGIN = no("AUTHENTICATE first")
NEEDS_LOGOUT = no("Not while you are logged in")
BAD_SYNTAX = no("Bad syntax")
STRING_TOO_LONG = no("String too long")
TOO_MANY_ERRORS = bye("Too many errors")
_NO_TLS = no("STARTTLS is not offered")
TLS_REFUSALS: Mapping[Obstacle, Reply] = {
    Obstacle.HAS_TLS: _NO_TLS,
    Obstacle.NO_TLS: _NO_TLS,
    Obstacle.EARLY_INPUT: bye("Nothing may follow STARTTLS before TLS is on"),
}
IDLE_TOO_LONG = bye("Nothing was heard for too long")

NEEDS_TLS = no("Passwords need TLS here: use STARTTLS first", b"ENCRYPT-NEEDED")
UNKNOWN_MECHANISM = no("Mechanism not known")
LOGIN_FAILED = no("User name or password not accepted")
LOGIN_UNAVAILABLE = no("Login is not possible now; try again later", TRYLATER)

GOODBYES: Mapping[Goodbye, Reply] = {
    Goodbye.SHUTDOWN: bye("Server is going down; try again soon", TRYLATER),
    Goodbye.EXPIRED: bye("The session has lasted too long; connect again", TRYLATER),
    Goodbye.TOO_SLOW: bye("Too slow; closing", TRYLATER),
    Goodbye.KICKED: bye("Closed by the administrator; try again later", TRYLATER),
}

_NOT_NOW = no("Temporary failure; try again later", TRYLATER)
_NO_SCRIPT = no("There is no such script", b"NONEXISTENT")

ERRORS: dict[type[errors.StorageError], Reply] = {
    errors.NotFound: _NO_SCRIPT,
    errors.AlreadyExists: no("There is a script of that name already", b"ALREADYEXISTS"),
    errors.NotPermitted: no("The script is active: deactivate it first", b"ACTIVE"),
    errors.ReadOnly: no("That may not be changed"),
    errors.InvalidName: no("The script name is not allowed"),
    errors.OverQuota: no("There are as many scripts as may be", b"QUOTA/MAXSCRIPTS"),
    errors.TooBig: no("The script is too large", MAXSIZE),
    errors.Conflict: _NOT_NOW,
    errors.Unavailable: _NOT_NOW,
    errors.StagingFull: _NOT_NOW,
    errors.CommitUnknown: _NOT_NOW,
    errors.Corrupt: no("The script is damaged in storage; store it again or ask your administrator"),
}


def error_reply(error: errors.StorageError) -> Reply:
    """The row of the error's class, or of its nearest ancestor in the table."""
    return next((ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS), _NOT_NOW)


def too_large(size_bytes: int, limit_bytes: int) -> Reply:
    return no(f"The script has {size_bytes} octets, {limit_bytes} are allowed", MAXSIZE)


def bad_name(error: errors.InvalidName) -> Reply:
    return no(f"Not allowed: {error}")


def tagged(tag: bytes) -> Reply:
    return ok("Done", b"TAG " + grammar.string(tag))


def server_bug(session_id: str) -> Reply:
    return bye(f"Server bug, logged with session {session_id}; closing", TRYLATER)
