"""What each node really shows at its public ports: handshakes with the others, and what came of them by
gossip, so that every node can tell of all.

Ports and names are those of this node's own configuration; where others listen elsewhere, they show as
unreachable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cluster.facts import DAY_S, MAX_KEY_BYTES, MAX_VALUE_BYTES, Kind
from node.clustering.wire import Unreadable, pack, unpack
from tls.observing import observe

if TYPE_CHECKING:
    from cluster.effects import FactChanged
    from node.clustering.service import Clustering

log = logging.getLogger("sora.tls.seen")

TOPIC: Final = b"certs/"  # and the node that was looked at, in the facts of the node that looked
LOOK_WITHIN_S: Final = 5.0
LOOK_EVERY_S: Final = 600.0
SETTLE_S: Final = 2.0  # after a swap: the others hear of it, and their workers swap
LOOKED_AT_MAX: Final = 16  # other nodes, the next ones by name: in a large cluster all are still looked at
SIGHTS_MAX: Final = 8  # of one node


@dataclass(frozen=True, slots=True)
class Sight:
    """``fingerprint``: of the leaf, SHA-256 in hex; ``not_after``: seconds of the epoch. Or ``trouble``."""

    port: int
    name: str
    fingerprint: str = ""
    not_after: float = 0.0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Door:
    """``starttls``: the protocol that has to be asked for TLS first; empty: TLS from the first byte."""

    port: int
    starttls: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Of one node at another; ``at``: seconds of the epoch, by the clock of who looked."""

    at: float
    sights: tuple[Sight, ...]


class Seen:
    """``doors``: where nodes show what was issued. ``names``: one of each certificate."""

    def __init__(self, clustering: Clustering) -> None:
        self._clustering = clustering
        self._soon = asyncio.Event()
        self.doors: Sequence[Door] = ()
        self.names: Sequence[str] = ()
        self.looks: dict[tuple[str, str], Look] = {}  # by who looked and at whom
        clustering.listen(Kind.NODE, self._heard)

    def swapped(self) -> None:
        """Somebody shows another certificate now."""
        self._soon.set()

    async def run(self, stop: asyncio.Event) -> None:
        """A worker."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await asyncio.wait({stopping}, timeout=SETTLE_S)
                self._soon.clear()
                if not stop.is_set():
                    await self.look()
                soon = asyncio.create_task(self._soon.wait())
                await asyncio.wait(
                    {stopping, soon}, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                soon.cancel()
        finally:
            stopping.cancel()

    async def look(self) -> None:
        """At the nodes after this one, by name, and at this one; tell the others."""
        own = self._clustering.gossip.name
        roster = self._clustering.roster
        known = {each.name: each.address.ip for each in roster.alive}
        others = sorted(set(roster.others), key=lambda name: (name < own, name))
        targets = {name: known[name] for name in (own, *others[:LOOKED_AT_MAX]) if name in known}
        found = await asyncio.gather(*(self._look_at(ip) for ip in targets.values()))
        for name, sights in zip(targets, found, strict=True):
            self._tell(name, Look(time.time(), sights))

    async def _look_at(self, ip: str) -> tuple[Sight, ...]:
        wanted = [(door, name) for name in self.names for door in self.doors][:SIGHTS_MAX]
        return tuple(await asyncio.gather(*(_sight_of(ip, door, name) for door, name in wanted)))

    def _tell(self, node: str, look: Look) -> None:
        self.looks[self._clustering.gossip.name, node] = look
        key = (TOPIC + node.encode())[:MAX_KEY_BYTES]
        self._clustering.gossip.put(Kind.NODE, {key: _fitting(look)}, DAY_S)

    def _heard(self, fact: FactChanged) -> None:
        if not fact.key.startswith(TOPIC):
            return
        node = fact.key.removeprefix(TOPIC).decode("utf-8", "replace")
        if fact.value is None:
            self.looks.pop((fact.origin, node), None)
            return
        try:
            self.looks[fact.origin, node] = _look(unpack(fact.value))
        except (Unreadable, TypeError) as error:
            log.debug("what %s saw at %s cannot be read: %s", fact.origin, node, error)

    # --- to look at ---

    def rows(self, ours: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
        """The newest word of nodes that are alive on each port of those that are alive; a node's own counts
        where there is no other. ``ours``: fingerprints by name."""
        rows: dict[tuple[str, int, str], dict[str, Any]] = {}
        alive = {each.name for each in self._clustering.roster.alive}
        words = [item for item in self.looks.items() if alive.issuperset(item[0])]
        words.sort(key=lambda item: (item[0][0] == item[0][1], -item[1].at))
        for (looker, node), look in words:
            for sight in look.sights:
                rows.setdefault((node, sight.port, sight.name), _row(looker, node, sight, ours))
        return [rows[key] for key in sorted(rows)]

    def disagreeing(self, ours: Mapping[str, Iterable[str]]) -> int:
        return sum(not row["agrees"] for row in self.rows(ours))


def _row(looker: str, node: str, sight: Sight, ours: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    agrees = any(
        own.startswith(sight.fingerprint[:32]) for own in ours.get(sight.name, ()) if sight.fingerprint
    )
    not_after = datetime.fromtimestamp(sight.not_after, UTC).isoformat() if sight.not_after else None
    return {
        "node": node,
        "port": str(sight.port),
        "name": sight.name,
        "fingerprint": sight.fingerprint,
        "not_after": not_after,
        "trouble": sight.trouble,
        "seen_by": looker,
        "agrees": agrees,
    }


def _look(plain: object) -> Look:
    """Raises Unreadable."""
    match plain:
        case [int() | float() as at, list() as sights]:
            return Look(float(at), tuple(map(_sight, sights)))
    raise Unreadable("unknown form")


def _sight(plain: object) -> Sight:
    """Raises Unreadable."""
    match plain:
        case [int() as port, str() as name, bytes() as leaf, int() | float() as not_after, str() as trouble]:
            return Sight(port, name, leaf.hex(), float(not_after), trouble)
    raise Unreadable("unknown form")


async def _sight_of(ip: str, door: Door, name: str) -> Sight:
    """What a client that asks there for a name is shown. Never raises."""
    seen = await observe(ip, door.port, name, starttls=door.starttls, within_s=LOOK_WITHIN_S)
    expiry = seen.not_after.timestamp() if seen.not_after is not None else 0.0
    return Sight(door.port, name, seen.fingerprint, expiry, seen.fault)


def _fitting(look: Look) -> bytes:
    """As many sights as one fact can hold."""
    plain = [
        [each.port, each.name, bytes.fromhex(each.fingerprint)[:16], each.not_after, each.trouble[:60]]
        for each in look.sights
    ]
    while len(value := pack([look.at, plain])) > MAX_VALUE_BYTES:
        plain.pop()
    return value
