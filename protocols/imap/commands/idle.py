"""IDLE (RFC 2177, RFC 9051 §6.3.13): news are written as they come.

No handler runs while the client idles. The view wakes the connection, ``ImapSession.on_wake`` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..registry import AUTHENTICATED, AwaitLine, Bad, Command, Ok, Outcome, parse_nothing
from ..view import ignore

if TYPE_CHECKING:
    from ..session import ImapSession

# Many NAT gateways forget a silent TCP connection after a few minutes; 2 minutes is below all common ones.
KEEPALIVE_S: Final = 120.0


def run_idle(session: ImapSession, _args: None) -> Outcome:
    session.begin_idle(KEEPALIVE_S)
    if session.selected is not None:
        session.selected.notify = session.connection.wake
        session.connection.wake()  # what is pending already

    def on_line(line: bytes) -> Outcome:
        session.end_idle()
        if session.selected is not None:
            session.selected.notify = ignore
        return Ok("Idle ended") if line.upper() == b"DONE" else Bad("Expected DONE")

    return AwaitLine(b"idling", on_line)


IDLE = Command(b"IDLE", AUTHENTICATED, parse_nothing, run_idle, "RFC 2177 §3", capabilities=(b"IDLE",))
