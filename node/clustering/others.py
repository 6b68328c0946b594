"""Sessions on the other nodes: ending them, and looking at the first few.

Listing asks with a query, whose answers are small by nature: each node says how many sessions match and
shows as many as fit, the oldest first. For all of them ask that node itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from cluster.thread import GossipUnavailable

from .wire import Unreadable, pack, unpack

if TYPE_CHECKING:
    from .service import Clustering

log = logging.getLogger("sora.cluster")

LIST: Final = "sora.sessions"
ENDED: Final = "sora.ended"
MAX_ANSWER_BYTES: Final = 900  # with its frame within the 1,024 of a Serf answer
ASK_WITHIN_S: Final = 2.0
ORDER_TAKES_S: Final = 0.2  # before anybody is asked what came of it

Rows = Callable[[Mapping[str, str]], list[list[object]]]  # sessions of this node, the oldest first
COLUMNS: Final = ("session", "protocol", "server", "user", "address", "since")


class OtherNodes:
    """``rows`` of this node, for the others that ask. Raises nothing for nodes that do not answer."""

    def __init__(self, clustering: Clustering, rows: Rows) -> None:
        self._clustering = clustering
        self._rows = rows
        clustering.answers[LIST] = self._answer_list
        clustering.answers[ENDED] = self._answer_ended

    def names(self) -> list[str]:
        """Other nodes of Sora that are there."""
        return list(self._clustering.roster.others)

    async def kick(self, filters: Mapping[str, str]) -> dict[str, int | None]:
        """Sessions that each other node has ended, None where it did not answer. Raises ValueError."""
        names = self.names()
        key = self._clustering.kicks.order(filters)
        if not names:
            return {}
        await asyncio.sleep(ORDER_TAKES_S)
        answers = await self._ask(ENDED, key, names)
        return {name: _read_count(answers.get(name)) for name in names}

    async def first(self, filters: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
        """By node: how many match, and the first of them; None where it did not answer."""
        names = self.names()
        answers = await self._ask(LIST, pack(dict(filters)), names) if names else {}
        return {name: _read_rows(answers.get(name)) for name in names}

    async def _ask(self, name: str, payload: bytes, nodes: list[str]) -> dict[str, bytes]:
        try:
            return await self._clustering.gossip.ask(name, payload, timeout_s=ASK_WITHIN_S, nodes=nodes)
        except (GossipUnavailable, ValueError) as error:
            log.warning("the other nodes cannot be asked: %s", error)
            return {}

    # --- asked by others ---

    def _answer_list(self, payload: bytes) -> bytes | None:
        try:
            filters = unpack(payload)
        except Unreadable:
            return None
        if not isinstance(filters, dict):
            return None
        rows = self._rows({str(name): str(text) for name, text in filters.items()})
        total, shown = len(rows), rows[:50]
        while len(raw := pack([total, shown])) > MAX_ANSWER_BYTES:
            shown.pop()
        return raw

    def _answer_ended(self, payload: bytes) -> bytes | None:
        ended = self._clustering.kicks.ended_by(payload)
        return None if ended is None else pack(ended)


def _read_count(raw: bytes | None) -> int | None:
    if raw is None:
        return None
    try:
        count = unpack(raw)
    except Unreadable:
        return None
    return count if isinstance(count, int) else None


def _read_rows(raw: bytes | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        match unpack(raw):
            case [int() as total, list() as rows]:
                shown = [
                    dict(zip(COLUMNS, row, strict=True))
                    for row in rows
                    if isinstance(row, list) and len(row) == len(COLUMNS)
                ]
                return {"total": total, "connections": shown}
    except Unreadable:
        return None
    return None
