"""What sessions need from the node, in one process and over the link: the same contract for both.

``Node.ports`` are two processes that serve clients; of a node of one process they are twice the same.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from dataclasses import dataclass, field, fields, replace

import pytest
import pytest_asyncio

from node.config import Config
from node.config.model import Server
from node.config.serverparts import AuthRateLimit
from node.desk import Desk, Hub
from node.link import Link
from node.linkports import LinkGates, LinkMaildropLock, LinkSearches, LinkSessions
from node.loginguard import Decision, Guards
from node.ratelimit import parse_address, subject_of
from node.searches import Searches
from node.sessions import EVERYBODY, Leave, SessionLimits, Sessions
from node.shared import BeginSearch, Gate, Registry
from protocols.errors import AuthenticationUnavailable, TooManySessions
from protocols.imap.searchpace import TooManySearches
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.ports import Goodbye, Identity, MaildropLock, Peer
from storage.model import AccountId

ANN = Identity(AccountId(1), "ann@example.test", "ann@example.test")
BOB = Identity(AccountId(2), "bob@example.test", "bob@example.test")
SERVER = Server(
    type="imap",
    name="imap",
    auth_rate_limit=AuthRateLimit(max_attempts_per_ip_username=3, delay_start_threshold=90),
)
LIMITS = SessionLimits(total=5, per_address=2, per_user=2)


@dataclass(eq=False)
class Connected:
    """``Registered`` without a connection."""

    session_id: str
    peer: Peer
    has_tls: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    is_active: bool = False
    goodbyes: list[tuple[Goodbye, float | None]] = field(default_factory=list)

    def say_goodbye(self, why: Goodbye, within_s: float | None = None) -> None:
        self.goodbyes.append((why, within_s))


@dataclass
class Ports:
    sessions: Registry
    gate: Gate
    maildrops: MaildropLock
    begin_search: BeginSearch
    link: Link | None = None


async def nothing_to_ask() -> None:
    """Of a node of one process."""


@dataclass
class Node:
    ports: list[Ports]
    sessions: Sessions  # the registry itself
    guards: Guards
    leases: Sized = ()
    recheck: Callable[[], None] = lambda: None
    tell_peers: Callable[[tuple[str, ...]], None] = lambda _peers: None
    check_full: Callable[[str, str], None] = lambda _server, _ip: None
    refresh: Callable[[], Awaitable[None]] = nothing_to_ask


def one_process() -> Node:
    config = Config(servers=(SERVER,))
    guards = Guards(config, check_takes_s=lambda: 0.0)
    sessions = Sessions()
    sessions.limit("imap", LIMITS)
    gate = guards.of(SERVER)
    assert gate is not None
    ports = Ports(sessions, gate, LocalMaildropLock(), Searches(config).begin)
    return Node([ports, ports], sessions, guards)  # who has no workers tells them nothing


async def several_processes(made: list[Link]) -> Node:
    config = Config(servers=(SERVER,))
    hub = Hub(config, 2)
    hub.sessions.limit("imap", LIMITS)
    ports = []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        desk = Desk(hub)
        desk.link = await connect(Link(desk.calls, desk.notices), ours)
        desk.link.lost.add_done_callback(lambda _, desk=desk: desk.clear())
        calls, notices = {}, {"ahead": lambda _is_ahead: None}
        link = Link(calls, notices)
        sessions = LinkSessions(link, config, 2)
        sessions.limit("imap", LIMITS)
        gates = LinkGates(link, config, b"k" * 32, lambda: 0.0)
        calls |= {"decide": gates.decide, "figures": figures_of(sessions), "give_back": sessions.give_back}
        notices |= {
            "full": sessions.set_full,
            "granted": sessions.budgets.granted,
            "begin": sessions.budgets.begin,
            "goodbye": sessions.say_goodbye,
            "block": gates.absorb,
            "peers": gates.set_peers,
            "welcome": gates.welcome,
        }
        await connect(link, theirs)
        hub.greet(desk)
        gate = gates.of(SERVER)
        assert gate is not None
        ports.append(Ports(sessions, gate, LinkMaildropLock(link), LinkSearches(link).begin, link))
        made += [link, desk.link]
    told = (hub.recheck, hub.tell_peers, hub.check_full)
    return Node(ports, hub.sessions, hub.guards, hub.leases, *told, hub.refresh)


def figures_of(sessions: LinkSessions) -> Callable[[list[str]], object]:
    async def figures(names: list[str]) -> object:
        return sessions.figures(names)

    return figures


async def connect(link: Link, sock: socket.socket) -> Link:
    sock.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=sock)
    return link


@pytest_asyncio.fixture(params=["direct", "link"])
async def node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    links: list[Link] = []
    yield one_process() if request.param == "direct" else await several_processes(links)
    for link in links:
        link.end("test over")


async def settled(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def connected(number: int, ip: str = "192.0.2.1") -> Connected:
    return Connected(f"s{number}", Peer(ip, 1000 + number, "192.0.2.99", 143))


# --- sessions ---


async def test_session_is_registered_with_what_is_known_and_gone_when_closed(node: Node) -> None:
    one = connected(1)
    sessions = node.ports[0].sessions
    sessions.opened(one, "imap", "imap")
    await sessions.logged_in("s1", ANN)
    sessions.client_named("s1", "Thunder", "1")
    await settled(lambda: [each.client_name for each in node.sessions] == ["Thunder"])
    (entry,) = node.sessions
    assert (entry.protocol, entry.server, entry.user) == ("imap", "imap", ANN)
    assert entry.connection.peer == one.peer
    one.peer = Peer("203.0.113.9", 5, "192.0.2.99", 143)
    sessions.readdressed("s1", one.peer)
    await settled(lambda: entry.connection.peer == one.peer)
    sessions.readdressed("gone", one.peer)
    sessions.logged_out("s1")
    await settled(lambda: entry.user is None)
    await sessions.logged_in("s1", BOB)
    assert entry.user == BOB
    sessions.closed(one)
    sessions.closed(one)
    await settled(lambda: node.sessions.is_empty)


async def test_all_that_the_front_door_found_out_about_a_client_is_registered(node: Node) -> None:
    proxied = Peer(
        *("203.0.113.9", 5, "192.0.2.99", 993),
        via_ip="10.0.0.5",
        ja4="t13d311000_e8f1e7e78f70_1f22a2ca17c4",
        sni="mail.example.test",
        proxy_session="p.7",
    )
    assert all(getattr(proxied, each.name) for each in fields(Peer))  # also those that are added some day
    node.ports[0].sessions.opened(Connected("s1", proxied, has_tls=True), "imap", "imaps")
    await settled(lambda: len(node.sessions) == 1)
    (entry,) = node.sessions
    assert entry.connection.peer == proxied


async def test_client_that_is_known_by_its_fingerprint_only_since_starttls(node: Node) -> None:
    one = connected(1)
    node.ports[0].sessions.opened(one, "imap", "imap")
    one.peer, one.has_tls = replace(one.peer, ja4="t13i311000_e8f1e7e78f70_1f22a2ca17c4"), True
    await settled(lambda: len(node.sessions) == 1)
    await node.refresh()
    (entry,) = node.sessions
    assert (entry.connection.has_tls, entry.connection.peer) == (True, one.peer)


async def test_logins_are_counted_over_all_processes(node: Node) -> None:
    opened = [connected(number) for number in range(3)]
    for number, each in enumerate(opened):
        node.ports[number % 2].sessions.opened(each, "imap", "imap")
    await node.ports[0].sessions.logged_in("s0", ANN)
    await node.ports[1].sessions.logged_in("s1", ANN)
    with pytest.raises(TooManySessions, match="2 are allowed"):
        await node.ports[0].sessions.logged_in("s2", ANN)
    await node.ports[0].sessions.logged_in("s2", BOB)
    node.ports[1].sessions.closed(opened[1])
    again = connected(4)
    node.ports[1].sessions.opened(again, "imap", "imap")
    await node.ports[1].sessions.logged_in("s4", ANN)


async def test_full_address_is_refused_in_all_processes_until_one_leaves(node: Node) -> None:
    first, second = (ports.sessions for ports in node.ports)
    leave = [await first.arrive("imap", "192.0.2.7"), await first.arrive("imap", "192.0.2.7")]
    assert all(leave)
    assert await second.arrive("imap", "192.0.2.7") is None
    assert await first.arrive("imap", "192.0.2.7") is None
    assert await second.arrive("imap", "192.0.2.8") is not None
    for each in leave:
        assert each is not None
        each()
        each()
    await until_let_in(second, "192.0.2.7")
    await until_let_in(second, "192.0.2.7")


async def until_let_in(sessions: Registry, ip: str) -> Leave:
    async with asyncio.timeout(60):
        while (leave := await sessions.arrive("imap", ip)) is None:
            await asyncio.sleep(0)
    return leave


async def test_connections_at_one_instant_never_pass_a_limit_together(node: Node) -> None:
    """Wherever they come, and all places are filled."""
    for ip, most in (("192.0.2.7", LIMITS.per_address), (EVERYBODY, LIMITS.total)):
        for sides in ([0, 1], [1], [0, 0, 1]):
            arriving = [node.ports[side].sessions.arrive("imap", ip) for side in sides * 20]
            leave = [each for each in await asyncio.gather(*arriving) if each is not None]
            assert len(leave) == most
            for each in leave:
                each()
            await settled(lambda: node.sessions.is_empty)
    await settled(lambda: not node.leases)


async def test_arrivals_that_are_given_up_keep_no_place(node: Node) -> None:
    for dice in map(random.Random, range(20)):
        tasks = [
            asyncio.ensure_future(node.ports[dice.randrange(2)].sessions.arrive("imap", "192.0.2.7"))
            for _ in range(5)
        ]
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(0)
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)
        for each in tasks:
            if not each.cancelled() and (leave := each.result()) is not None:
                leave()
    await settled(lambda: not node.leases and node.sessions.is_empty)
    for _ in range(LIMITS.per_address):
        await until_let_in(node.ports[0].sessions, "192.0.2.7")


async def test_lower_and_higher_limits_hold_for_who_comes(node: Node) -> None:
    def limit(total: int) -> None:
        for sessions in (node.sessions, *(ports.sessions for ports in node.ports)):
            sessions.limit("imap", SessionLimits(total=total))
        node.recheck()

    limit(8)
    first, second = (ports.sessions for ports in node.ports)
    leave = [await first.arrive("imap", EVERYBODY) for _ in range(7)]
    limit(4)
    assert await first.arrive("imap", EVERYBODY) is None
    for each in leave[:4]:
        assert each is not None
        each()
    await until_let_in(second, EVERYBODY)
    assert await second.arrive("imap", EVERYBODY) is None
    limit(20)
    for _ in range(16):
        await until_let_in(second, EVERYBODY)
    assert await first.arrive("imap", EVERYBODY) is None
    limit(0)
    assert await first.arrive("imap", EVERYBODY) is not None


async def test_goodbye_reaches_the_connection(node: Node) -> None:
    one = connected(1)
    node.ports[1].sessions.opened(one, "imap", "imap")
    await settled(lambda: len(node.sessions) == 1)
    (entry,) = node.sessions
    entry.connection.say_goodbye(Goodbye.KICKED, 0.5)
    await settled(lambda: one.goodbyes)
    assert one.goodbyes == [(Goodbye.KICKED, 0.5)]


# --- searches ---


async def test_searches_of_an_account_are_counted_over_all_processes(node: Node) -> None:
    most = SERVER.limits.search_rate_limit_per_min
    for number in range(most):
        await node.ports[number % 2].begin_search("imap", ANN.account_id)
    for ports in node.ports:
        with pytest.raises(TooManySearches) as refused:
            await ports.begin_search("imap", ANN.account_id)
        assert 0 < refused.value.wait_s <= SERVER.limits.search_rate_limit_window_s
    await node.ports[1].begin_search("imap", BOB.account_id)


# --- maildrops ---


async def test_one_session_of_all_processes_holds_a_maildrop(node: Node) -> None:
    first, second = (ports.maildrops for ports in node.ports)
    release = await first.acquire(ANN.account_id)
    assert release is not None
    assert await second.acquire(ANN.account_id) is None
    other = await second.acquire(BOB.account_id)
    assert other is not None
    release()
    release()

    async with asyncio.timeout(60):
        while (again := await second.acquire(ANN.account_id)) is None:
            await asyncio.sleep(0)
    release()
    assert await first.acquire(ANN.account_id) is None
    again()


async def test_acquiring_that_is_cancelled_holds_nothing(node: Node) -> None:
    for _ in range(20):
        task = asyncio.ensure_future(node.ports[0].maildrops.acquire(ANN.account_id))
        await asyncio.sleep(0)
        if task.done():  # in one process there is nothing to wait for
            release = task.result()
            assert release is not None
            release()
        task.cancel()
        await asyncio.wait([task])
    assert await node.ports[1].maildrops.acquire(ANN.account_id) is not None


# --- logins ---


async def login(ports: Ports, identity: Identity | None, password: bytes, ip: str = "192.0.2.1") -> Decision:
    async def decide() -> Decision:
        return Decision(identity)

    return await ports.gate.judge(Peer(ip, 1, "192.0.2.99", 143), "ann@example.test", password, decide)


async def test_decision_is_handed_on(node: Node) -> None:
    assert await login(node.ports[0], ANN, b"right") == Decision(ANN)
    assert await login(node.ports[1], None, b"wrong") == Decision(None)


async def test_failures_count_over_all_processes_and_block_in_all(node: Node) -> None:
    for number in range(3):
        decision = await login(node.ports[number % 2], None, b"wrong %d" % number)
        assert decision == Decision(None)
    for ports in node.ports:
        assert (await login(ports, ANN, b"right")).refused_by == "blocked by user"
        assert await login(ports, ANN, b"right", "198.51.100.1") == Decision(ANN)


async def test_same_wrong_password_counts_once_wherever_it_comes(node: Node) -> None:
    for number in range(8):
        await login(node.ports[number % 2], None, b"old password")
    assert await login(node.ports[0], ANN, b"right") == Decision(ANN)


async def test_unavailable_is_no_failure(node: Node) -> None:
    async def decide() -> Decision:
        raise AuthenticationUnavailable("the database is away")

    for _ in range(5):
        with pytest.raises(AuthenticationUnavailable, match="away"):
            await node.ports[0].gate.judge(Peer("192.0.2.1", 1), "ann@example.test", b"x", decide)
    assert await login(node.ports[1], ANN, b"right") == Decision(ANN)


async def test_operators_block_holds_at_every_door_until_it_is_lifted(node: Node) -> None:
    peer = Peer("192.0.2.1", 1, "192.0.2.99", 143)
    address = parse_address(peer.ip)
    assert address is not None
    subject = subject_of(address, 64)
    assert not any(ports.gate.refuses(peer) for ports in node.ports)
    node.guards.add(subject, lasts_s=None, reason="test")
    await settled(lambda: all(ports.gate.refuses(peer) for ports in node.ports))
    assert (await login(node.ports[1], ANN, b"right")).refused_by == "blocked by admin"
    node.guards.remove(subject)
    await settled(lambda: not any(ports.gate.refuses(peer) for ports in node.ports))


async def test_nodes_of_the_cluster_are_refused_at_no_door(node: Node) -> None:
    peer = Peer("192.0.2.1", 1, "192.0.2.99", 143)
    address = parse_address(peer.ip)
    assert address is not None
    node.guards.add(subject_of(address, 64), lasts_s=None, reason="test")
    await settled(lambda: all(ports.gate.refuses(peer) for ports in node.ports))
    node.guards.peers = lambda: ("192.0.2.1",)
    node.tell_peers(("192.0.2.1",))
    await settled(lambda: not any(ports.gate.refuses(peer) for ports in node.ports))
    assert await login(node.ports[1], ANN, b"right") == Decision(ANN)


async def test_an_address_that_is_full_on_other_nodes_is_turned_away_at_every_door(node: Node) -> None:
    ip, elsewhere = "192.0.2.7", LIMITS.per_address
    node.sessions.elsewhere = lambda key: elsewhere if key[1] == "address" else 0  # type: ignore[index]
    node.check_full("imap", ip)
    for ports in node.ports:
        async with asyncio.timeout(60):
            while (leave := await ports.sessions.arrive("imap", ip)) is not None:
                leave()
                await asyncio.sleep(0)
    assert await node.ports[0].sessions.arrive("imap", EVERYBODY) is not None
    elsewhere = 0
    node.check_full("imap", ip)
    await until_let_in(node.ports[1].sessions, ip)


async def test_what_a_process_held_is_free_when_it_is_gone() -> None:
    links: list[Link] = []
    node = await several_processes(links)
    gone, left = node.ports
    for number in range(2):
        gone.sessions.opened(connected(number), "imap", "imap")
        await gone.sessions.logged_in(f"s{number}", ANN)
        assert await gone.sessions.arrive("imap", "192.0.2.7") is not None
        assert await gone.sessions.arrive("imap", EVERYBODY) is not None
    left.sessions.opened(connected(5), "imap", "imap")
    assert await gone.maildrops.acquire(ANN.account_id) is not None
    with pytest.raises(TooManySessions):
        await left.sessions.logged_in("s5", ANN)
    assert gone.link is not None
    gone.link.end("killed")
    await settled(lambda: len(node.sessions) == 1)
    await left.sessions.logged_in("s5", ANN)
    for ip, most in (("192.0.2.7", LIMITS.per_address), (EVERYBODY, LIMITS.total)):
        for _ in range(most):
            await until_let_in(left.sessions, ip)
        assert await left.sessions.arrive("imap", ip) is None
    assert await left.maildrops.acquire(ANN.account_id) is not None
    with pytest.raises(AuthenticationUnavailable):
        await login(gone, ANN, b"right")
    with pytest.raises(TooManySessions):
        await gone.sessions.logged_in("s0", ANN)
    for link in links:
        link.end("test over")
