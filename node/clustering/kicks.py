"""Ending sessions on all nodes: an order that all are told, each does once, and that is over after a minute.

Sessions that began after the order was given are not meant by it: a client that comes back, or an order that
arrives late through a healed partition, must not end what an administrator has not seen.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cluster.facts import RULES, Kind

from .wire import Unreadable, is_value, pack, unpack

if TYPE_CHECKING:
    from cluster.effects import FactChanged

    from .gossip import Gossip

log = logging.getLogger("sora.cluster")

TTL_S: Final = RULES[Kind.KICK].max_ttl_s
MAX_REMEMBERED: Final = 10_000
KEY_BYTES: Final = 12

Filters = Mapping[str, str]  # empty: everybody


class Kicks:
    """``kick`` ends the sessions that match and began before a time of ``clock``, which is monotonic; how
    many."""

    def __init__(
        self, gossip: Gossip, kick: Callable[[Filters, float], int], clock: Callable[[], float]
    ) -> None:
        self._gossip = gossip
        self._kick = kick
        self._clock = clock
        self._done: OrderedDict[bytes, int] = OrderedDict()  # sessions ended, by order
        self.unreadable = 0

    def order(self, filters: Filters) -> bytes:
        """For the other nodes; done here it is already. Raises ValueError for filters that are too long."""
        key, value = secrets.token_bytes(KEY_BYTES), pack(dict(filters))
        if not is_value(value):
            raise ValueError("the filters are too long for an order")
        self._remember(key, 0)
        self._gossip.put(Kind.KICK, {key: value}, TTL_S)
        return key

    def ended_by(self, key: bytes) -> int | None:
        """How many sessions an order has ended here; None when it has not come yet."""
        return self._done.get(key)

    def heard(self, fact: FactChanged) -> None:
        if fact.value is None or fact.key in self._done:
            return
        try:
            filters = _read(fact.value)
        except Unreadable as error:
            self.unreadable += 1
            log.warning("an order of %s to end sessions cannot be read: %s", fact.origin, error)
            return
        given_at = self._clock() - max(0.0, TTL_S - fact.ttl_s)
        self._remember(fact.key, 0)
        self._done[fact.key] = ended = self._kick(filters, given_at)
        log.info("%d sessions ended by an administrator on node %s", ended, fact.origin)

    def _remember(self, key: bytes, ended: int) -> None:
        self._done[key] = ended
        if len(self._done) > MAX_REMEMBERED:
            self._done.popitem(last=False)


def _read(value: bytes) -> Filters:
    """Raises Unreadable."""
    plain = unpack(value)
    if not isinstance(plain, dict) or not all(
        isinstance(name, str) and isinstance(text, str) for name, text in plain.items()
    ):
        raise Unreadable("not filters")
    return plain
