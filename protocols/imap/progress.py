"""Telling the client that a long command is still at work (RFC 9585)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import responses

if TYPE_CHECKING:
    from .session import ImapSession

# Before any client or NAT gateway loses patience, and rarely enough not to matter.
EVERY_S: Final = 10.0


class ProgressReports:
    """While it is open, ``* OK [INPROGRESS …]`` every ``EVERY_S`` seconds.

    Only for commands that write whole lines through the session: a report may come between any two of them.
    ``position`` tells how far it is, None as long as that is not known.
    """

    __slots__ = ("_position", "_session", "_timer")

    def __init__(self, session: ImapSession, position: Callable[[], tuple[int, int] | None]) -> None:
        self._session = session
        self._position = position
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self.report)

    def report(self) -> None:
        session, position = self._session, self._position()
        done, goal = (b"NIL", b"NIL") if position is None else (b"%d" % position[0], b"%d" % position[1])
        code = b"INPROGRESS (%b %b %b)" % (responses.quote(session.tag), done, goal)
        session.send(responses.ok("Still at it", code))
        session.connection.flush()
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self.report)

    def close(self) -> None:
        self._timer.cancel()
