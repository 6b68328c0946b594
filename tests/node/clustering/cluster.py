"""Nodes in a fake cluster, with the real objects of a node that take part in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from node.clustering.kicks import Filters
from node.clustering.service import Clustering, Parts
from node.config import AuthRateLimit, Config, Server
from node.config.services import Cluster, RateLimitSync
from node.feed import LocalFeed
from node.loginguard import Guards
from node.ratelimit import Address, parse_address
from node.sessions import SessionLimits, Sessions
from node.status import ListenerStatus
from protocols.ports import Goodbye, Identity, MailboxChanged, Peer
from storage.model import AccountId
from tests.support.fakecluster import FakeCluster, FakeGossip

SERVER = "imap"


@dataclass
class Clocks:
    """One true time; each node's wall clock may be off by its own amount."""

    now: float = 10_000.0
    wall: float = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


@dataclass
class Later:
    """``call_later`` that waits for the test."""

    clocks: Clocks
    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.due.append((self.clocks.now + delay_s, callback))

    def run(self) -> None:
        ready = [callback for at, callback in self.due if at <= self.clocks.now]
        self.due = [(at, callback) for at, callback in self.due if at > self.clocks.now]
        for callback in ready:
            callback()


class Feed(LocalFeed):
    """What ``HostFeed`` does, within one process."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[MailboxChanged] = []
        self.beyond: Callable[[MailboxChanged], None] = lambda _change: None

    def publish(self, change: MailboxChanged) -> None:
        super().publish(change)
        self.beyond(change)

    def publish_heard(self, change: MailboxChanged) -> None:
        self.published.append(change)
        super().publish(change)


@dataclass
class Connection:
    session_id: str
    peer: Peer
    has_tls: bool = True
    is_active: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    goodbyes: list[Goodbye] = field(default_factory=list)

    def say_goodbye(self, why: Goodbye, within_s: float | None = None) -> None:
        self.goodbyes.append(why)


class Member:
    """One node. ``skew_s``: how far its wall clock is ahead."""

    def __init__(
        self,
        cluster: FakeCluster,
        clocks: Clocks,
        name: str,
        number: int,
        *,
        skew_s: float = 0.0,
        limits: SessionLimits | None = None,
        sync: RateLimitSync | None = None,
        max_event_queue_size: int = 1000,
    ) -> None:
        self.clocks = clocks
        self.skew_s = skew_s
        self.config = Config(
            servers=(
                Server(type="imap", name=SERVER, auth_rate_limit=AuthRateLimit(max_attempts_per_ip=10)),
            ),
            cluster=Cluster(
                node_id=name,
                addr=f"10.0.0.{number}",
                rate_limit_sync=sync or RateLimitSync(),
                max_event_queue_size=max_event_queue_size,
            ),
        )
        self.gossip: FakeGossip = cluster.add(name, f"10.0.0.{number}")
        self.guards = Guards(
            self.config, check_takes_s=lambda: 0.0, clock=self.wall, secret=number.to_bytes(16, "big")
        )
        self.guards.of(self.config.servers[0])
        self.sessions = Sessions(wall_clock=self.wall, clock=clocks.monotonic)
        self.sessions.limit(SERVER, limits or SessionLimits())
        self.feed = Feed()
        self.later = Later(clocks)
        self.noticed: list[tuple[str, str]] = []
        self.kicked: list[tuple[Filters, float]] = []
        self.peers: tuple[str, ...] = ()
        self.clustering = Clustering(
            self.config,
            self.gossip,
            Parts(
                guards=self.guards,
                sessions=self.sessions,
                feed=self.feed,
                listeners=self.listeners,
                kick=self.kick,
                peers_changed=self.peers_told,
                check_full=lambda server, ip: self.noticed.append((server, ip)),
            ),
            call_later=self.later.call_later,
            wall_clock=self.wall,
            clock=clocks.monotonic,
        )
        self.gossip.catch_up()
        asyncio.run(self.clustering.begin((bytes(32),)))

    def wall(self) -> float:
        return self.clocks.wall + self.skew_s

    async def listeners(self) -> list[ListenerStatus]:
        return [ListenerStatus(SERVER, "imap", "10.0.0.1:143", len(self.sessions), 0)]

    def peers_told(self, peers: tuple[str, ...]) -> None:
        self.peers = peers

    def kick(self, filters: Filters, before: float) -> int:
        self.kicked.append((filters, before))
        return len(self.kicked)

    def refuses(self, ip: str) -> bool:
        guard = next(iter(self.guards))[1]
        return guard.refuses(Peer(ip, 1))

    def fail(self, ip: str, times: int) -> None:
        """Wrong passwords, each another, for one user each."""
        guard = next(iter(self.guards))[1]
        for number in range(times):
            attempt = self.guards.limiter.attempt(
                guard.rules,
                address(ip),
                f"user{number % 3}@example.org",
                f"{self.gossip.name}{number}".encode(),
            )
            counted = self.guards.limiter.failed(guard.rules, attempt, self.wall())
            for delta in counted.deltas:
                self.guards.tell(delta)

    def counted(self, ip: str) -> tuple[int, int]:
        """Failures counted here and on the other nodes."""
        guard = next(iter(self.guards))[1]
        counts = self.guards.limiter.counts(guard.rules, address(ip), self.wall())
        return counts.failures, counts.others

    def open(self, session_id: str, ip: str = "192.0.2.1", protocol: str = "imap") -> Connection:
        connection = Connection(session_id, Peer(ip, 1))
        self.sessions.opened(connection, protocol, SERVER)
        return connection

    def log_in(self, session_id: str, account: int, ip: str = "192.0.2.1") -> Connection:
        """Raises TooManySessions."""
        connection = self.open(session_id, ip)
        identity = Identity(AccountId(account), f"user{account}@example.org", f"user{account}@example.org")
        try:
            asyncio.run(self.sessions.logged_in(session_id, identity))
        except BaseException:
            self.sessions.closed(connection)
            raise
        return connection


def address(ip: str) -> Address:
    found = parse_address(ip)
    assert found is not None
    return found


class Nodes:
    """Three of them, named a, b and c."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.cluster = FakeCluster(self.clocks.monotonic)
        self.members: dict[str, Member] = {}

    def add(self, name: str, **settings: object) -> Member:
        number = len(self.members) + 1
        member = Member(self.cluster, self.clocks, name, number, **settings)  # type: ignore[arg-type]
        self.members[name] = member
        return member

    def three(self, **settings: object) -> tuple[Member, Member, Member]:
        return self.add("a", **settings), self.add("b", **settings), self.add("c", **settings)

    def pass_by(self, seconds: float) -> None:
        """Timers and ends of entries included."""
        self.clocks.pass_by(seconds)
        for member in self.members.values():
            member.later.run()
        self.cluster.expire()
