"""CAPABILITY, NOOP, CHECK, LOGOUT: commands that need no argument and no store."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from .. import responses
from ..registry import ANY, SELECTED, Command, Ok, Outcome, parse_nothing

if TYPE_CHECKING:
    from ..session import ImapSession


def run_capability(session: ImapSession, _args: None) -> Ok:
    session.send(responses.capability(session.capabilities()))
    return Ok("That is all")


def run_noop(session: ImapSession, _args: None) -> Outcome | Awaitable[Outcome]:
    """Free, unless the view is being refreshed this moment: then the client gets what it polls for."""
    if session.selected is not None:
        refresh = session.views.pending_refresh(session.selected.mailbox.id)
        if refresh is not None:
            return _noop_after(refresh)
    return _DONE


async def _noop_after(refresh: Awaitable[None]) -> Outcome:
    await refresh
    return _DONE


def run_logout(session: ImapSession, _args: None) -> Ok:
    session.unselect()
    session.send(responses.bye("Goodbye"))
    session.is_leaving = True
    return Ok("Logged out")


_DONE = Ok("Done")

CAPABILITY = Command(b"CAPABILITY", ANY, parse_nothing, run_capability, "RFC 9051 §6.1.1")
NOOP = Command(b"NOOP", ANY, parse_nothing, run_noop, "RFC 9051 §6.1.2")
CHECK = Command(b"CHECK", SELECTED, parse_nothing, run_noop, "RFC 3501 §6.4.1")
LOGOUT = Command(b"LOGOUT", ANY, parse_nothing, run_logout, "RFC 9051 §6.1.3")
