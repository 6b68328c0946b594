"""Queries: a question to all members or some, answered straight to who asked, over within seconds.

``Asking`` has those of this node and collects acks and answers; ``Answering`` has those that others, or we
ourselves, wait for an answer from us to.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..api import Settings
from ..delegate import Members, Outlet, part_of
from ..effects import QueryAnswered
from ..instant import Instant
from .clocks import LamportClock
from .codec import MAX_QUERY_BYTES, encode
from .filters import MAX_FILTERS, encode_filters
from .messages import Query, QueryFlag, QueryResponse, Relay

if TYPE_CHECKING:
    import random

INTERNAL_PREFIX: Final = "_serf_"
_MAX_OPEN: Final = 256  # of each kind
_MAX_ANSWERS: Final = 16_384  # of one query
_MAX_RELAYS: Final = 5
_AGENT_GOSSIP_S: Final = 0.2  # a mixed cluster spreads a query no faster
_TIMEOUT_MULT: Final = 16


@dataclass(slots=True)
class _Open:
    number: int
    name: str
    acked: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)


class Asking:
    """``tell`` hears what comes to each query, and its end."""

    def __init__(self, settings: Settings, rng: random.Random, tell: Callable[[QueryAnswered], None]) -> None:
        self._settings = settings
        self._rng = rng
        self._tell = tell
        self._open: dict[int, _Open] = {}
        self._deadlines: list[tuple[float, int]] = []
        self.clock = LamportClock()

    def default_timeout_s(self, members: int) -> float:
        interval_s = max(self._settings.profile.gossip_interval_s, _AGENT_GOSSIP_S)
        return interval_s * _TIMEOUT_MULT * math.ceil(math.log10(members + 1))

    @property
    def has_room(self) -> bool:
        return len(self._open) < _MAX_OPEN

    def ask(
        self,
        name: str,
        payload: bytes,
        at: Instant,
        timeout_s: float,
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        wants_ack: bool = False,
    ) -> tuple[Query, bytes]:
        """Raises ValueError when it is too long, has too many filters, or too many are open."""
        if not self.has_room:
            raise ValueError(f"{_MAX_OPEN} queries are open already")
        filters = encode_filters(nodes, tags or {})
        if len(filters) > MAX_FILTERS:
            raise ValueError(f"a query has at most {MAX_FILTERS} filters")
        query = Query(
            ltime=self.clock.time,
            number=self._unused_number(),
            asker=self._settings.advertise,
            source_node=self._settings.name,
            filters=filters,
            flags=QueryFlag.ACK if wants_ack else 0,
            relay_factor=0,
            timeout_s=timeout_s,
            name=name,
            payload=payload,
        )
        raw = encode(query)
        if len(raw) > MAX_QUERY_BYTES:
            raise ValueError(f"a query has at most {MAX_QUERY_BYTES} bytes with its frame, not {len(raw)}")
        self.clock.stamp()
        self._open[query.number] = _Open(query.number, name)
        heapq.heappush(self._deadlines, (at.now + timeout_s, query.number))
        return query, raw

    def _unused_number(self) -> int:
        number = self._rng.getrandbits(32)
        while number in self._open:
            number = self._rng.getrandbits(32)
        return number

    def heard(self, response: QueryResponse) -> bool:
        """Whether it was news about a query that is open."""
        query = self._open.get(response.number)
        if query is None:
            return False
        known = query.acked if response.is_ack else query.answered
        if response.node in known or len(known) >= _MAX_ANSWERS:
            return False
        known.add(response.node)
        payload = None if response.is_ack else response.payload
        self._tell(QueryAnswered(query.number, response.node, payload))
        return True

    def next_deadline(self) -> float:
        return self._deadlines[0][0] if self._deadlines else math.inf

    def tick(self, at: Instant) -> None:
        while self._deadlines and self._deadlines[0][0] <= at.now:
            _, number = heapq.heappop(self._deadlines)
            del self._open[number]
            self._tell(QueryAnswered(number, "", None, is_over=True))


@dataclass(frozen=True, slots=True)
class Asked:
    token: int
    query: Query
    deadline: float


class Answering:
    def __init__(self, settings: Settings, outlet: Outlet, rng: random.Random, asking: Asking) -> None:
        self._settings = settings
        self._outlet = outlet
        self._rng = rng
        self._asking = asking
        self._open: dict[int, Asked] = {}
        self._last_token = 0

    def open(self, query: Query, at: Instant) -> Asked:
        """The oldest goes when there are too many."""
        self._drop_late(at)
        if len(self._open) >= _MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._last_token += 1
        asked = Asked(self._last_token, query, at.now + query.timeout_s)
        self._open[asked.token] = asked
        return asked

    def respond(self, token: int, payload: bytes, at: Instant, members: Members) -> None:
        """Once. Raises LookupError when it is over or was never asked, ValueError as ``answer``."""
        self._drop_late(at)
        self.answer(self._open[token].query, payload, members)
        del self._open[token]

    def _drop_late(self, at: Instant) -> None:
        late = [token for token, asked in self._open.items() if asked.deadline < at.now]
        for token in late:
            del self._open[token]

    def ack(self, query: Query, members: Members) -> None:
        response = QueryResponse(query.ltime, query.number, self._settings.name, is_ack=True)
        self._send(query, response, encode(response), members)

    def answer(self, query: Query, payload: bytes, members: Members) -> None:
        """Raises ValueError when it is too long."""
        response = QueryResponse(
            query.ltime, query.number, self._settings.name, is_ack=False, payload=payload
        )
        raw = encode(response)
        if len(raw) > MAX_QUERY_BYTES:
            raise ValueError(f"an answer has at most {MAX_QUERY_BYTES} bytes with its frame, not {len(raw)}")
        self._send(query, response, raw, members)

    def _send(self, query: Query, response: QueryResponse, raw: bytes, members: Members) -> None:
        if query.asker == self._settings.advertise:
            self._asking.heard(response)
            return
        self._outlet.send(query.asker, [part_of(raw)], node=query.source_node)
        if query.relay_factor:
            self._relay(query, raw, members)

    def _relay(self, query: Query, raw: bytes, members: Members) -> None:
        """The same by way of other members, for an asker that hears us badly."""
        others = [member for member in members.alive() if member.address != query.asker]
        count = min(query.relay_factor, _MAX_RELAYS, len(others))
        relayed = part_of(encode(Relay(query.asker, query.source_node, raw)))
        for member in self._rng.sample(others, count):
            self._outlet.send(member.address, [relayed], node=member.name)
