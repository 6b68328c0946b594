"""Why a cluster does not form: what this node finds when it tries each step by itself.

The steps are those that a packet takes: an address of ours, names of peers, a TCP connection, the exchange
of states (which takes the right key), then answers by UDP. What is found is a list of findings; the first
that is wrong is usually the cause of the others.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from cluster.address import Address
from cluster.effects import MemberView
from cluster.messages import State
from cluster.thread import GossipUnavailable
from node.units import parse_address

from .leading import SORA_TAG

if TYPE_CHECKING:
    from .service import Clustering

WELL, DOUBTFUL, WRONG = "ok", "warning", "error"
CONNECT_WITHIN_S: Final = 2.0
JOIN_WITHIN_S: Final = 4.0
LOOKUP_WITHIN_S: Final = 3.0
ACKS_WITHIN_S: Final = 10.0  # of a member's being there its answers to pings have to come
SKEW_MATTERS_S: Final = 2.0
MANY: Final = 10  # packets, that may be a restart of somebody
FEW: Final = 3  # pings
NAMED: Final = 20  # members that are not well; the others are counted
BY_TCP_SHARE: Final = 0.2  # of pings: more is no accident

_SAYS_KEY: Final = (
    "its answer could not be opened, or it closed: another secret_key there, or another label, or no gossip"
)


@dataclass(frozen=True, slots=True)
class Found:
    """``about``: a part, a peer or a node. ``cure``: what to do, when something is."""

    verdict: str
    about: str
    what: str
    cure: str = ""


class Doctor:
    """``examine`` takes some seconds when peers are away."""

    def __init__(self, clustering: Clustering) -> None:
        self._clustering = clustering

    async def examine(self) -> dict[str, Any]:
        clustering = self._clustering
        found = self._own()
        if not clustering.has_left:
            found += await self._peers()
            found += await self._members()
            found += await self._packets()
            found += await self._clocks()
            found += self._configurations()
        worst = next((each for each in (WRONG, DOUBTFUL) if any(f.verdict == each for f in found)), WELL)
        return {"verdict": worst, "findings": [asdict(each) for each in found]}

    # --- this node ---

    def _own(self) -> list[Found]:
        clustering = self._clustering
        config = clustering.config.cluster
        found = [_own_address(config.bind.host, str(config.bind))]
        if config.advertise_addr and config.advertise != config.bind:
            found.append(
                Found(WELL, "advertise_addr", f"the others are told {config.advertise}, for UDP and TCP")
            )
        if clustering.has_left:
            cure = "restart this node to bring it back"
            found.append(Found(WRONG, clustering.gossip.name, "this node has left the cluster", cure))
        if clustering.conflict is not None:
            conflict = clustering.conflict
            found.append(
                Found(
                    WRONG,
                    conflict.name,
                    f"two nodes have this name: {conflict.address} and {conflict.other}",
                    "give each node its own cluster.node_id, and restart it",
                )
            )
        return found

    # --- peers of the configuration ---

    async def _peers(self) -> list[Found]:
        config = self._clustering.config.cluster
        if not config.peers:
            cure = "name one other node at least in cluster.peers"
            return [Found(DOUBTFUL, "peers", "none are configured: this node waits for others", cure)]
        peers = [parse_address(peer, config.port) for peer in config.other_peers]
        return [
            each
            for found in await asyncio.gather(*(self._peer(peer.host, peer.port) for peer in peers))
            for each in found
        ]

    async def _peer(self, host: str, port: int) -> list[Found]:
        own = self._clustering.config.cluster.bind.host
        try:
            addresses = await _look_up(host, port, _family(own))
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            cure = "correct the name, or the resolver of this machine"
            return [Found(WRONG, host, f"the name cannot be resolved: {reason}", cure)]
        return [await self._reach(address) for address in addresses]

    async def _reach(self, address: Address) -> Found:
        name = str(address)
        known = next((each for each in self._clustering.roster.alive if each.address == address), None)
        if known is not None and known.name == self._clustering.gossip.name:
            return Found(WELL, name, "this node itself; it is left out")
        trouble = await _connect(address, self._clustering.config.cluster.bind.host)
        if trouble is not None:
            return trouble
        if known is not None:
            return Found(WELL, name, f"node {known.name} answers by TCP and is a member")
        return await self._join(address)

    async def _join(self, address: Address) -> Found:
        name = str(address)
        clustering = self._clustering
        clustering.joins.pop(name, None)
        clustering.gossip.join([address])
        try:
            async with asyncio.timeout(JOIN_WITHIN_S):
                while name not in clustering.joins:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return Found(WRONG, name, "TCP connects, but the exchange of states does not end", _SAYS_KEY)
        error = clustering.joins[name].error
        if not error:
            return Found(WELL, name, "it answers by TCP, and was joined just now")
        return Found(WRONG, name, f"TCP connects, but it cannot be joined: {error}", _cure_of(error))

    # --- members ---

    async def _members(self) -> list[Found]:
        clustering = self._clustering
        try:
            clustering.roster.replace(await clustering.gossip.members())
        except GossipUnavailable as error:
            return [Found(WRONG, "gossip", f"does not run: {error}", "see the log; it is started again")]
        now = clustering.clock()
        told = [self._member(each, now) for each in clustering.roster]
        unwell = [each for each in told if each is not None]
        found = unwell[:NAMED]
        if len(unwell) > NAMED:
            found.append(
                Found(DOUBTFUL, "members", f"{len(unwell) - NAMED} more of which as much can be said")
            )
        if clustering.roster.is_full:
            found.append(
                Found(
                    WRONG,
                    "members",
                    f"{len(clustering.roster)} are known, and no more are taken: somebody makes them up",
                    "look for strange names with 'cluster members'; give all nodes a new secret_key, "
                    "and start them anew",
                )
            )
        if len(clustering.roster.alive) == 1 and clustering.config.cluster.other_peers:
            found.append(Found(WRONG, "members", "this node sees no other one", "see the peers above"))
        return found

    def _member(self, member: MemberView, now: float) -> Found | None:
        if member.name == self._clustering.gossip.name:
            return None
        match member.state:
            case State.ALIVE if member.round_trip_s is None and now - member.since > ACKS_WITHIN_S:
                cure = f"let UDP to port {member.address.port} through, both ways"
                return Found(WRONG, member.name, "alive by hearsay, but no ping was answered", cure)
            case State.SUSPECT:
                return Found(DOUBTFUL, member.name, "does not answer pings at the moment", "wait")
            case State.DEAD:
                cure = "start it, or mend the network; 'cluster force-leave' when it is gone for good"
                return Found(DOUBTFUL, member.name, "has failed", cure)
        return None

    async def _packets(self) -> list[Found]:
        """Of the last minutes."""
        clustering = self._clustering
        try:
            figures = await clustering.gossip.figures()
        except GossipUnavailable:
            return []  # said already
        found = []
        for reason, (what, cure) in _REASONS.items():
            count = int(clustering.lately.rise(f"rejected_{reason}", figures))
            if count:
                verdict = WRONG if count >= MANY else DOUBTFUL
                found.append(Found(verdict, "packets", f"{what}: {count} lately", cure))
        by_tcp = int(clustering.lately.rise("probe_tcp_fallbacks", figures))
        if by_tcp >= FEW and by_tcp > BY_TCP_SHARE * clustering.lately.rise("probes", figures):
            cure = "let UDP through between all nodes, both ways"
            found.append(
                Found(WRONG, "packets", f"pings that were answered by TCP only: {by_tcp} lately", cure)
            )
        return found

    async def _clocks(self) -> list[Found]:
        try:
            skews = await self._clustering.gossip.skews()
        except GossipUnavailable:
            return []  # said already
        return [
            Found(
                DOUBTFUL,
                name,
                f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} ours",
                "run NTP on all nodes; blocks end in time all the same",
            )
            for name, skew in sorted(skews.items())
            if abs(skew) > SKEW_MATTERS_S
        ]

    def _configurations(self) -> list[Found]:
        clustering = self._clustering
        found = [
            Found(DOUBTFUL, name, f"configured differently: {', '.join(sections)}", "compare the files")
            for name, sections in clustering.drifting().items()
        ]
        own = clustering.abouts.own
        for member in clustering.roster.alive:
            about = clustering.abouts.of(member.name)
            if about is not None and about.config_key and about.config_key != own.config_key:
                cure = "finish the rotation: 'cluster keys'"
                found.append(Found(DOUBTFUL, member.name, "sends with another key than we do", cure))
            if SORA_TAG in member.tags and about is not None and about.version not in ("", own.version):
                cure = "finish the upgrade"
                found.append(Found(DOUBTFUL, member.name, f"runs version {about.version}", cure))
        return found


_REASONS: Final = {
    "key": (
        "packets that no key of ours opens",
        "a node with another secret_key sends to us, the log names its address: give all nodes the same one",
    ),
    "plaintext": (
        "packets that were not encrypted",
        "an agent without a key sends to us, the log names its address: give it the secret_key",
    ),
    "label": ("packets of another cluster", "give all nodes the same cluster.label"),
    "version": ("packets of a version that we do not speak", "upgrade the node that the log names"),
    "overload": (
        "packets, or members in them, dropped because there were too many",
        "look for a node that floods the others, the log names its address",
    ),
}


def _own_address(host: str, name: str) -> Found:
    """Whether the address is one of this machine still."""
    with socket.socket(_family(host), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            return Found(
                WRONG,
                "addr",
                f"{name} is not an address of this machine now: {error.strerror}",
                "set cluster.addr to one that is, and that the others reach",
            )
    return Found(WELL, "addr", f"this node listens on {name}, UDP and TCP")


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(ip).version == 6 else socket.AF_INET


async def _look_up(host: str, port: int, family: socket.AddressFamily) -> Sequence[Address]:
    """Addresses of the family that this node speaks. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LOOKUP_WITHIN_S):
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Address(str(each[4][0]), port) for each in found))


async def _connect(address: Address, own_ip: str) -> Found | None:
    """From the address that gossip uses, which firewalls may know."""
    name = str(address)
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            _, writer = await asyncio.open_connection(address.ip, address.port, local_addr=(own_ip, 0))
    except TimeoutError:
        cure = f"start that node, or let TCP to port {address.port} through on the way"
        return Found(WRONG, name, "no answer by TCP: packets are dropped on the way, or it is off", cure)
    except ConnectionRefusedError:
        cure = "start the node there; check its cluster.addr and port"
        return Found(WRONG, name, "refuses TCP: the machine is there, and nothing listens on the port", cure)
    except OSError as error:
        return Found(WRONG, name, f"cannot be reached: {error.strerror or error}", "check routes and address")
    writer.close()
    return None


def _cure_of(error: str) -> str:
    low = error.lower()
    if "no answer" in low or "key" in low or "plaintext" in low:
        return _SAYS_KEY
    if "version" in low:
        return "nodes of versions that do not speak with each other: upgrade the older one"
    return "see the log of that node"
