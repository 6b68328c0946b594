"""Wire problems. What happened to data is in ``storage.errors``."""

from __future__ import annotations


class PeerError(Exception):
    """The peer broke grammar or state. ``reply`` is text fit for the protocol's own error reply."""

    def __init__(self, reply: str, *, fatal: bool = False) -> None:
        super().__init__(reply)
        self.reply = reply
        self.fatal = fatal


class MachineMisuse(Exception):
    """We used a machine in a way it forbids; always a bug of ours."""


class PeerGone(Exception):
    """The peer closed, was closed by a deadline, or the node is shutting down."""


class AuthenticationFailed(Exception):
    """Unknown user, wrong password, disabled, blocked: one class, one reply, for all of them."""


class AuthenticationUnavailable(Exception):
    """Could not be decided now (database away, verify queue full).

    A temporary failure; it says nothing about the password.
    """


class LimitReached(Exception):
    """The user asks for more than is allowed now; ``reply`` is text fit for the protocol's error reply."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


class TooManySessions(LimitReached):
    """The user has as many connections as the server allows. The password was right."""
