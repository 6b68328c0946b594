"""What each node really shows at its public ports: handshakes with the others, and what came of them by
gossip, so that every node can tell of all.

Ports and names are those of this node's own configuration; where others listen elsewhere, they show as
unreachable.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from cluster.facts import DAY_S, MAX_VALUE_BYTES, Kind
from node.clustering.wire import Unreadable, pack, unpack

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


class Seen:
    """``ports``: of servers with TLS from the first byte. ``names``: one of each certificate."""

    def __init__(self, clustering: Clustering) -> None:
        self._clustering = clustering
        self._soon = asyncio.Event()
        self.ports: Sequence[int] = ()
        self.names: Sequence[str] = ()
        self.sights: dict[tuple[str, str], tuple[Sight, ...]] = {}  # by who looked and at whom
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
            self.sights[own, name] = sights
            self._tell(name, sights)

    async def _look_at(self, ip: str) -> tuple[Sight, ...]:
        wanted = [(port, name) for port in self.ports for name in self.names][:SIGHTS_MAX]
        return tuple(await asyncio.gather(*(look_at_port(ip, port, name) for port, name in wanted)))

    def _tell(self, node: str, sights: Sequence[Sight]) -> None:
        plain = [
            [s.port, s.name, bytes.fromhex(s.fingerprint)[:16], s.not_after, s.trouble[:60]] for s in sights
        ]
        value = pack(plain)
        if len(value) <= MAX_VALUE_BYTES:
            key = (TOPIC + node.encode())[:128]
            self._clustering.gossip.put(Kind.NODE, {key: value}, DAY_S)

    def _heard(self, fact: FactChanged) -> None:
        if not fact.key.startswith(TOPIC):
            return
        node = fact.key.removeprefix(TOPIC).decode("utf-8", "replace")
        if fact.value is None:
            self.sights.pop((fact.origin, node), None)
            return
        try:
            self.sights[fact.origin, node] = tuple(_sight(each) for each in unpack(fact.value))
        except (Unreadable, TypeError) as error:
            log.debug("what %s saw at %s cannot be read: %s", fact.origin, node, error)

    # --- to look at ---

    def rows(self, ours: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
        """The newest word on each node and port, the node's own last; ``ours``: fingerprints by name."""
        rows: dict[tuple[str, int, str], dict[str, Any]] = {}
        order = sorted(self.sights.items(), key=lambda item: (item[0][1], item[0][0] == item[0][1], item[0]))
        for (looker, node), sights in order:
            for sight in sights:
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


def _sight(plain: object) -> Sight:
    """Raises Unreadable."""
    match plain:
        case [int() as port, str() as name, bytes() as leaf, int() | float() as not_after, str() as trouble]:
            return Sight(port, name, leaf.hex(), float(not_after), trouble)
    raise Unreadable("unknown form")


async def look_at_port(ip: str, port: int, name: str) -> Sight:
    """One handshake, as a client that asks for a name makes it and trusts anybody. Never raises."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(LOOK_WITHIN_S):
            _, writer = await asyncio.open_connection(ip, port, ssl=context, server_hostname=name)
    except TimeoutError:
        return Sight(port, name, trouble="no answer in time")
    except (OSError, ssl.SSLError) as error:
        return Sight(port, name, trouble=str(error.strerror or error))
    try:
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    if leaf is None:
        return Sight(port, name, trouble="it shows none")
    expiry = x509.load_der_x509_certificate(leaf).not_valid_after_utc
    return Sight(port, name, hashlib.sha256(leaf).hexdigest(), expiry.timestamp())
