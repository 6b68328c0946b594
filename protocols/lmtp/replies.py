"""Every reply of the LMTP server: code, enhanced status (RFC 3463) and text.

``ERRORS`` says what a storage error means to the MTA: 4xx keeps the message in its queue, 5xx returns it to
the sender. A row for every class; when in doubt 4xx, because a bounce cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from protocols.ports import Goodbye
from protocols.starttls import Obstacle
from storage import errors


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply; ``status`` is empty where RFC 2034 has none (greeting, LHLO, 354)."""

    code: int
    status: str
    text: str

    @property
    def is_positive(self) -> bool:
        return self.code < 400

    def encode(self) -> bytes:
        return _encode(self.code, self.status, self.text)


@lru_cache(maxsize=256)  # nearly all of them are constants
def _encode(code: int, status: str, text: str) -> bytes:
    status = f"{status} " if status else ""
    lines = text.split("\n")
    rendered = [f"{code}-{status}{line}\r\n" for line in lines[:-1]]
    return "".join([*rendered, f"{code} {status}{lines[-1]}\r\n"]).encode("utf-8", "replace")


OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
DELIVERED = Reply(250, "2.0.0", "Delivered")
SEND_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
GOODBYE = Reply(221, "2.0.0", "Bye")
VERIFY = Reply(252, "2.5.0", "Cannot verify; try to deliver")
HELP = Reply(214, "2.0.0", "RFC 2033: LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS QUIT")
TLS_READY = Reply(220, "2.0.0", "Ready to start TLS")

LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
UNKNOWN_COMMAND = Reply(500, "5.5.2", "Command not known")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
SAY_LHLO = Reply(500, "5.5.1", "This is LMTP: say LHLO")
BAD_SYNTAX = Reply(501, "5.5.4", "Bad syntax")
BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")
BAD_PARAMETER = Reply(501, "5.5.4", "Bad parameter value")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not known")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8")
NEEDS_LHLO = Reply(503, "5.5.1", "Say LHLO first")
NEEDS_MAIL = Reply(503, "5.5.1", "Say MAIL first")
NEEDS_RECIPIENT = Reply(503, "5.5.1", "No valid recipients")
NESTED_MAIL = Reply(503, "5.5.1", "A transaction is open already")
NESTED_XCLIENT = Reply(503, "5.5.1", "Not in a transaction: say RSET or finish it")
PROXY_LOOP = Reply(554, "5.4.6", "Proxies hand this connection on among themselves")
CHUNKS_OPEN = Reply(503, "5.5.1", "Chunks of a message are open: finish it or say RSET")
BINARY_NEEDS_BDAT = Reply(503, "5.5.1", "A BINARYMIME message needs BDAT")
_NO_TLS = Reply(502, "5.5.1", "STARTTLS is not offered")
TLS_REFUSALS: Mapping[Obstacle, Reply] = {
    Obstacle.HAS_TLS: _NO_TLS,
    Obstacle.NO_TLS: _NO_TLS,
    Obstacle.EARLY_INPUT: Reply(503, "5.5.1", "Nothing may follow STARTTLS before TLS is on"),
}
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
LOST_CHUNK = Reply(501, "5.5.4", "A chunk of unknown size cannot be skipped: closing")

MESSAGE_TOO_BIG = Reply(552, "5.3.4", "Message too big")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients in one transaction")
NO_SUCH_USER = Reply(550, "5.1.1", "No such user")
MAIL_LOOP = Reply(554, "5.4.6", "Mail loop: this message has been here before")
ONLY_REPORTS = Reply(550, "5.7.1", "Only reports of failures come to this address")
IDLE_TOO_LONG = Reply(421, "4.4.2", "Idle for too long")
GOODBYES: Mapping[Goodbye, Reply] = {
    Goodbye.SHUTDOWN: Reply(421, "4.3.2", "Server is going down; try again soon"),
    Goodbye.EXPIRED: Reply(421, "4.4.2", "The session has lasted too long; connect again"),
    Goodbye.TOO_SLOW: Reply(421, "4.4.2", "Too slow; closing"),
    Goodbye.KICKED: Reply(421, "4.3.2", "Closed by the administrator; try again later"),
}

TOOK_TOO_LONG = Reply(451, "4.3.0", "This takes too long; try again later")
NOT_NOW = Reply(451, "4.3.0", "Temporary failure; try again later")

ERRORS: dict[type[errors.StorageError], Reply] = {
    errors.NotFound: NO_SUCH_USER,
    errors.AlreadyExists: NOT_NOW,
    errors.NotPermitted: NOT_NOW,
    errors.ReadOnly: NOT_NOW,
    errors.InvalidName: NOT_NOW,
    errors.OverQuota: Reply(452, "4.2.2", "Mailbox is full"),
    errors.TooBig: MESSAGE_TOO_BIG,
    errors.Conflict: NOT_NOW,
    errors.Unavailable: NOT_NOW,
    errors.StagingFull: Reply(452, "4.3.1", "Out of storage; try again later"),
    errors.CommitUnknown: NOT_NOW,
    errors.Corrupt: NOT_NOW,
}


# RFC 5321 §4.5.3.1.5 allows 512 octets a line.
MAX_REASON_LINES = 20
MAX_REASON_CHARS = 400


def refusal(reason: str, *, is_utf8: bool = False) -> Reply:
    """A recipient's script rejects the message: its words (RFC 5429 §2.2), as far as they fit a reply.
    ``is_utf8``: the client reads others than ASCII (RFC 6531 §3.7.4.2)."""
    text = "".join(
        char if " " <= char <= "~" or char == "\n" or (is_utf8 and char.isprintable()) else "?"
        for char in reason.replace("\r\n", "\n")
    )
    lines = [line.rstrip()[:MAX_REASON_CHARS] for line in text.strip().split("\n")][:MAX_REASON_LINES]
    return Reply(550, "5.7.1", "\n".join(lines) if any(lines) else "Rejected by the recipient")


def error_reply(error: errors.StorageError) -> Reply:
    """The row of the error's class, or of its nearest ancestor in the table."""
    return next((ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS), NOT_NOW)


def server_bug(session_id: str) -> Reply:
    return Reply(421, "4.3.0", f"Server bug, logged with session {session_id}; closing")
