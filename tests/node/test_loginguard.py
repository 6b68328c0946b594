"""The limiter in front of a real authenticator: replies, costs, and who is served meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from node.authn import DirectAuthenticator
from node.config import AuthRateLimit, Config, Server
from node.hashupgrade import HashUpgrader
from node.loginguard import Guards, capacity_of, rules_of
from node.logs import ConsoleFormatter
from node.ratelimit import Delta, Rules, parse_subject
from node.units import parse_network
from node.verify import PasswordVerifier
from protocols.errors import AuthenticationFailed, AuthenticationUnavailable
from protocols.ports import Identity, Peer
from storage.errors import Unavailable
from storage.memory.accounts import MemoryAccountStore
from storage.memory.tables import Tables
from tests.support.passwords import Clock, CountedChecks, cheap_hash, verifier

ANN, BOB = "ann@example.org", "bob@example.org"
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.9"
FAILED = "wrong user name or password"


class Store(MemoryAccountStore):
    is_away = False
    reads = 0

    async def login(self, address: str) -> object:  # type: ignore[override]
        self.reads += 1
        if self.is_away:
            raise Unavailable("away")
        return await super().login(address)


@dataclass
class Node:
    options: AuthRateLimit = field(default_factory=lambda: AuthRateLimit(initial_delay_s=0))
    threads: int = 1
    queue_limit: int = 8

    def __post_init__(self) -> None:
        self.store = Store.beside(Tables())
        self.checks = CountedChecks()
        self.clock = Clock()
        self.passwords: PasswordVerifier = verifier(
            self.checks, self.clock, threads=self.threads, queue_limit=self.queue_limit
        )
        server = Server(name="imap", auth_rate_limit=self.options)
        self.told: list[Delta] = []
        self.guards = Guards(Config(servers=(server,)), check_takes_s=lambda: 0.0, clock=self.clock)
        self.guards.tell = self.told.append
        guard = self.guards.of(server)
        assert guard is not None
        self.guard = guard
        upgrader = HashUpgrader(self.store, self.passwords)
        self.authenticator = DirectAuthenticator(self.store, self.passwords, upgrader).behind(self.guard)

    async def login(self, password: bytes, *, ip: str = HOME, user: str = ANN) -> Identity:
        return await self.authenticator.authenticate(
            "imap", Peer(ip, 50000, "192.0.2.1", 143), user, password
        )

    async def fail(self, times: int, *, ip: str = HOME, user: str = ANN) -> None:
        for n in range(times):
            with pytest.raises(AuthenticationFailed, match=FAILED):
                await self.login(b"wrong %d" % n, ip=ip, user=user)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    for user in (ANN, BOB):
        await made.store.create_account(user, cheap_hash(b"secret"))
    yield made
    made.checks.release()
    await made.passwords.close()


async def test_a_blocked_pair_is_refused_without_a_look(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await node.fail(5)
    reads, checks = node.store.reads, len(node.checks.stored)
    with pytest.raises(AuthenticationFailed, match=FAILED):
        await node.login(b"secret")
    assert (node.store.reads, len(node.checks.stored)) == (reads, checks)
    lines = [ConsoleFormatter().format(each) for each in caplog.records]
    about = "ip=192.0.2.7 user=ann@example.org"
    assert any(
        f"blocked by rule user after 5 failures, for 900 s, level 0  {about}" in each for each in lines
    )
    assert any("login failed (blocked by user)" in each for each in lines)
    assert (await node.login(b"secret", user=BOB)).address == BOB
    assert (await node.login(b"secret", ip=ELSEWHERE)).address == ANN
    node.clock.now += 900
    assert (await node.login(b"secret")).address == ANN


@pytest.mark.parametrize("spelling", ["ANN@Example.ORG", " ann@example.org", "ann+x@example.org"])
async def test_one_key_for_every_spelling(node: Node, spelling: str) -> None:
    await node.fail(4)
    with pytest.raises(AuthenticationFailed):
        await node.login(b"another", user=spelling)
    with pytest.raises(AuthenticationFailed):
        await node.login(b"secret")


@pytest.mark.parametrize("user", ["nobody@example.org", "no address", "", "\ud800"])
async def test_unknown_users_count_like_known_ones(node: Node, user: str) -> None:
    await node.fail(5, user=user)
    (block,) = node.guards.limiter.blocks(node.clock.now)
    assert (block.rule, block.count) == ("user", 5)


async def test_an_outage_counts_for_nobody(node: Node) -> None:
    node.store.is_away = True
    for n in range(20):
        with pytest.raises(AuthenticationUnavailable):
            await node.login(b"wrong %d" % n)
    node.store.is_away = False
    assert (await node.login(b"secret")).address == ANN


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "192.0.2.1", "", "::ffff:127.0.0.9"])
async def test_this_machine_is_never_blocked(node: Node, ip: str) -> None:
    await node.fail(30, ip=ip)
    assert (await node.login(b"secret", ip=ip)).address == ANN
    assert not node.guard.refuses(Peer(ip, 1, "192.0.2.1"))
    assert node.guards.limiter.sizes["pairs"] == 0


async def test_the_other_nodes_hear_of_addresses_and_operators(node: Node) -> None:
    for n in range(10):
        await node.fail(1, user=f"user{n}@example.org")
    assert [type(delta).__name__ for delta in node.told] == ["Failures"] * 10 + ["Block"]
    assert node.guard.refuses(Peer(HOME, 1))
    node.told.clear()
    subject = parse_subject(HOME, 64)
    node.guards.remove(subject)
    node.guards.add(subject, lasts_s=60, reason="test")
    assert [type(delta).__name__ for delta in node.told] == ["Lifted", "Block"]
    assert node.guard.refuses(Peer(HOME, 1))
    node.clock.now += 60
    assert not node.guard.refuses(Peer(HOME, 1))


async def test_a_block_from_another_node_holds_here(node: Node) -> None:
    other = Node()
    for n in range(10):
        await other.fail(1, user=f"user{n}@example.org")
    for delta in other.told:
        node.guards.absorb(delta)
    assert node.guard.refuses(Peer(HOME, 1))
    await other.passwords.close()


async def test_an_operators_block_holds_where_rules_are_off() -> None:
    node = Node(AuthRateLimit(enabled=False))
    await node.fail(30)
    assert not node.guard.refuses(Peer(HOME, 1))
    node.guards.add(parse_subject("192.0.2.0/24", 64), lasts_s=None, reason="")
    assert node.guard.refuses(Peer(HOME, 1))
    await node.passwords.close()


async def test_delays_are_held_before_the_check_and_bounded() -> None:
    node = Node(AuthRateLimit(delay_start_threshold=1, max_concurrent_delays_per_ip=2))
    await node.store.create_account(ANN, cheap_hash(b"secret"))
    timers: list[object] = []
    node.guards.room._later = lambda seconds, fire: timers.append((seconds, fire))
    await node.fail(1)
    held = [asyncio.create_task(node.login(b"secret")) for _ in range(2)]
    await asyncio.sleep(0)
    checks = len(node.checks.stored)
    with pytest.raises(AuthenticationFailed, match=FAILED):
        await node.login(b"secret")
    assert len(node.checks.stored) == checks
    assert (await node.login(b"secret", ip=ELSEWHERE)).address == ANN
    assert [seconds for seconds, _ in timers] == [1, 1]  # type: ignore[misc]
    for _, fire in timers:  # type: ignore[misc]
        fire()  # type: ignore[has-type]
    assert [each.address for each in await asyncio.gather(*held)] == [ANN, ANN]
    await node.passwords.close()


async def test_who_is_blocked_while_he_waits_is_refused() -> None:
    node = Node(AuthRateLimit(delay_start_threshold=1))
    await node.store.create_account(ANN, cheap_hash(b"secret"))
    timers: list[object] = []
    node.guards.room._later = lambda seconds, fire: timers.append(fire)
    await node.fail(1)
    held = asyncio.create_task(node.login(b"secret"))
    await asyncio.sleep(0)
    node.guards.add(parse_subject(HOME, 64), lasts_s=None, reason="")
    for fire in timers:
        fire()  # type: ignore[operator]
    with pytest.raises(AuthenticationFailed):
        await held
    await node.passwords.close()


async def test_guesses_sent_all_at_once_are_less_than_twice_the_budget() -> None:
    node = Node(AuthRateLimit(initial_delay_s=0, fast_block_threshold=0), queue_limit=64)
    await node.store.create_account(ANN, cheap_hash(b"secret"))
    burst = [asyncio.create_task(node.login(b"guess %d" % n)) for n in range(50)]
    outcomes = await asyncio.gather(*burst, return_exceptions=True)
    assert {type(each) for each in outcomes} == {AuthenticationFailed}
    assert 5 <= len(node.checks.stored) < 10
    await node.passwords.close()


async def test_many_connections_at_once_with_the_right_password_all_get_in(node: Node) -> None:
    burst = [asyncio.create_task(node.login(b"secret")) for _ in range(50)]
    assert {each.address for each in await asyncio.gather(*burst)} == {ANN}
    assert len(node.checks.stored) == 1


async def test_reloading_changes_the_rules_and_keeps_the_counts(node: Node) -> None:
    await node.fail(4)
    lax = Server(
        name="imap", auth_rate_limit=AuthRateLimit(max_attempts_per_ip_username=50, initial_delay_s=0)
    )
    node.guards.reload(Config(servers=(lax, Server(name="new"))))
    await node.fail(8)
    assert (await node.login(b"secret")).address == ANN
    exempt = Server(name="imap", auth_rate_limit=AuthRateLimit(enabled=True))
    node.guards.reload(Config(servers=(exempt,), trusted_networks=(parse_network("192.0.2.0/24"),)))
    await node.fail(30)
    assert (await node.login(b"secret")).address == ANN


async def test_a_flood_from_one_address_delays_itself(node: Node) -> None:
    """Ann waits for the check that runs and the next one, not for the queue of the attacker."""
    node.checks.hold()
    flood = [
        asyncio.create_task(node.login(b"guess", user=f"user{n}@example.org", ip=ELSEWHERE)) for n in range(8)
    ]
    await asyncio.to_thread(node.checks.started.acquire)
    ann = asyncio.create_task(node.login(b"secret"))  # the queue is full: its longest line gives way
    await asyncio.sleep(0)
    done: list[str] = []
    ann.add_done_callback(lambda _: done.append("ann"))
    for task in flood:
        task.add_done_callback(lambda _: done.append("guess"))
    node.checks.release()
    assert (await ann).address == ANN
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    assert done.index("ann") <= 3  # after the two, and the one that gave way
    kinds = [type(each) for each in outcomes]
    assert kinds.count(AuthenticationUnavailable) == 1
    assert kinds.count(AuthenticationFailed) == 7


def test_options_become_rules() -> None:
    """The defaults of the configuration are those of the model."""
    assert rules_of(AuthRateLimit()) == Rules()
    assert not rules_of(AuthRateLimit(enabled=False)).is_enabled


def test_the_largest_capacity_of_all_servers_counts() -> None:
    small = Server(auth_rate_limit=AuthRateLimit(max_ip_entries=10, max_username_entries=70_000))
    capacity = capacity_of([Server(), small])
    assert (capacity.pairs, capacity.addresses, capacity.users) == (100_000, 50_000, 70_000)


def test_servers_without_logins_have_no_guard() -> None:
    guards = Guards(Config(), check_takes_s=lambda: 0.0)
    assert guards.of(Server(type="lmtp")) is None
