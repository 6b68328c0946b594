"""Every status line of the POP3 server, with response codes of RFC 2449 §8 and RFC 3206.

``ERRORS`` says what a storage error means to the client: ``SYS/TEMP`` leaves the mail where it is and makes
the client try again; only ``SYS/PERM`` needs a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocols.ports import Goodbye
from protocols.starttls import Obstacle
from storage import errors


@dataclass(frozen=True, slots=True)
class Ok:
    text: str

    def encode(self) -> bytes:
        return f"+OK {self.text}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Err:
    """``code`` is a response code without brackets, or empty."""

    text: str
    code: str = ""

    def encode(self) -> bytes:
        code = f"[{self.code}] " if self.code else ""
        return f"-ERR {code}{self.text}\r\n".encode()


Reply = Ok | Err

GREETING = Ok("Sora POP3 server ready")
GOODBYE = Ok("Bye")
SEND_PASSWORD = Ok("Send the password")
TLS_READY = Ok("Begin TLS")
CAPABILITIES = Ok("Capabilities follow")
NOOP = Ok("Nothing done")

LINE_TOO_LONG = Err("Line too long")
UNKNOWN_COMMAND = Err("Command not known")
WRONG_STATE = Err("Not in this state")
BAD_SYNTAX = Err("Bad syntax")
TOO_MANY_ERRORS = Err("Too many errors")
NEEDS_USER = Err("USER first")
_NO_TLS = Err("STLS is not offered")
TLS_REFUSALS: Mapping[Obstacle, Err] = {
    Obstacle.HAS_TLS: _NO_TLS,
    Obstacle.NO_TLS: _NO_TLS,
    Obstacle.EARLY_INPUT: Err("Nothing may follow STLS before TLS is on"),
}
PROXY_LOOP = Err("Proxies hand this connection on among themselves", "SYS/PERM")
UNKNOWN_MECHANISM = Err("Mechanism not known")

NEEDS_TLS = Err("Passwords need TLS here: use STLS first", "AUTH")
LOGIN_FAILED = Err("User name or password not accepted", "AUTH")
LOGIN_UNAVAILABLE = Err("Login is not possible now; try again later", "SYS/TEMP")
IN_USE = Err("The maildrop is open in another session", "IN-USE")

NO_SUCH_MESSAGE = Err("No such message")
NOT_REMOVED = Err("Messages were not removed; try again later", "SYS/TEMP")
GOODBYES: Mapping[Goodbye, Err] = {
    Goodbye.SHUTDOWN: Err("Server is going down; try again soon", "SYS/TEMP"),
    Goodbye.EXPIRED: Err("The session has lasted too long; nothing was removed, connect again", "SYS/TEMP"),
    Goodbye.TOO_SLOW: Err("Too slow; closing", "SYS/TEMP"),
    Goodbye.KICKED: Err("Closed by the administrator; try again later", "SYS/TEMP"),
}

_NOT_NOW = Err("Temporary failure; try again later", "SYS/TEMP")
_BROKEN = Err("Storage lacks what it should have; ask your administrator", "SYS/PERM")

ERRORS: dict[type[errors.StorageError], Err] = {
    errors.NotFound: _BROKEN,
    errors.AlreadyExists: _NOT_NOW,
    errors.NotPermitted: _BROKEN,
    errors.ReadOnly: _BROKEN,
    errors.InvalidName: _BROKEN,
    errors.OverQuota: _NOT_NOW,
    errors.TooBig: _NOT_NOW,
    errors.Conflict: _NOT_NOW,
    errors.Unavailable: _NOT_NOW,
    errors.StagingFull: _NOT_NOW,
    errors.CommitUnknown: _NOT_NOW,
    errors.Corrupt: Err("The message is damaged in storage; ask your administrator", "SYS/PERM"),
}


def error_reply(error: errors.StorageError) -> Err:
    """The row of the error's class, or of its nearest ancestor in the table."""
    return next((ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS), _NOT_NOW)


def server_bug(session_id: str) -> Err:
    return Err(f"Server bug, logged with session {session_id}; closing", "SYS/TEMP")
