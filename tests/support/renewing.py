"""Nodes that keep certificates, in memory: one bucket, one database and one CA for all of them, and a clock
that stands still until it is moved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from storage.errors import Unavailable
from storage.leases import Lease
from storage.memory.leases import MemoryAttemptRecord, MemoryLeases
from tls.ports import (
    Account,
    BucketUnavailable,
    CaSettings,
    Failure,
    Generation,
    Issued,
    IssuingFailed,
    Journal,
    Renewal,
    Steps,
)
from tls.renewing.memory import LastingRecord
from tls.renewing.plan import Plan
from tls.renewing.rounds import Rounds
from tls.renewing.shelf import Shelf
from tls.renewing.tools import Tools
from tls.serving import Policy, Served
from tls.vault.memory import MemoryBucket
from tls.vault.sealing import Seals
from tls.vault.vault import SealedVault
from tls.wanted import Wanted

from .issued import authority, key_pem, leaf, pem

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
CA = CaSettings("https://ca.example/dir", email="a@example.com")
OTHER_CA = CaSettings("https://other.example/dir")
MAIL = Wanted(("imap.example.com", "mail.example.com"))
SECRET = b"0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def pass_by(self, **span: float) -> None:
        self.at += timedelta(**span)


class FaultyBucket(MemoryBucket):
    """``is_away``: nothing works; ``refuses``: keys with this in them cannot be written."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.refuses = ""

    def _require(self, key: str = "", *, writes: bool = False) -> None:
        if self.is_away or (writes and self.refuses and self.refuses in key):
            raise BucketUnavailable("the bucket is away")

    async def put(self, key: str, data: bytes) -> None:
        self._require(key, writes=True)
        await super().put(key, data)

    async def get(self, key: str) -> bytes | None:
        self._require()
        return await super().get(key)

    async def list(self, prefix: str) -> list[str]:
        self._require()
        return await super().list(prefix)

    async def delete(self, key: str) -> None:
        self._require(key, writes=True)
        await super().delete(key)


class FaultyLeases(MemoryLeases):
    """``away``: holders that cannot reach the database. ``skew``: of the database's clock."""

    def __init__(self, clock: Clock) -> None:
        self.skew = timedelta()
        super().__init__(lambda: clock.now() + self.skew)
        self.away: set[str] = set()
        self.is_away = False

    def _require(self, holder: str) -> None:
        if self.is_away or holder in self.away:
            raise Unavailable("the database is away")

    async def take(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        self._require(holder)
        return await super().take(name, holder, ttl_s)

    async def renew(self, lease: Lease, ttl_s: float) -> bool:
        self._require(lease.holder)
        return await super().renew(lease, ttl_s)

    async def release(self, lease: Lease) -> None:
        self._require(lease.holder)
        await super().release(lease)

    async def holder(self, name: str) -> str:
        self._require("")
        return await super().holder(name)


@dataclass(slots=True)
class Order:
    wanted: Wanted
    url: str
    token: str
    is_answered: bool = False
    is_finalized: bool = False
    issued: bytes = b""


@dataclass(slots=True)
class FakeCa:
    """Counts what it is asked for. ``look``: what the CA finds for a token; ``at``: called with the name of
    each step before it is done, and may raise or wait."""

    clock: Clock
    lifetime: timedelta = timedelta(days=90)
    ahead: timedelta = timedelta()  # of its clock
    look: Callable[[str], str | None] = lambda _token: None
    at: Callable[[str], Awaitable[None]] | None = None
    failing: list[IssuingFailed] = field(default_factory=list)  # of the next orders
    window: Renewal | IssuingFailed | None = None
    accounts: set[str] = field(default_factory=set)
    orders: list[Order] = field(default_factory=list)
    replaced: list[bytes] = field(default_factory=list)
    revoked: list[bytes] = field(default_factory=list)
    asked: list[Wanted] = field(default_factory=list)  # also what was refused
    certificates: int = 0

    def at_directory(self, settings: CaSettings) -> FakeAuthority:
        return FakeAuthority(self, settings)

    async def step(self, name: str) -> None:
        if self.at is not None:
            await self.at(name)


class FakeAuthority:
    """The Authority contract on a FakeCa, with the steps of an order in their order."""

    def __init__(self, ca: FakeCa, settings: CaSettings) -> None:
        self.settings = settings
        self._ca = ca

    async def account(self, known: Account | None) -> Account:
        await self._ca.step("account")
        if known is not None and known.uri in self._ca.accounts:
            return known
        if known is not None and known.uri:
            raise IssuingFailed(Failure.LOST_ACCOUNT, "no such account")
        uri = f"{self.settings.directory}/account/{len(self._ca.accounts) + 1}"
        self._ca.accounts.add(uri)
        key_json = known.key_json if known is not None else f'{{"made for": "{uri}"}}'
        return Account(self.settings.directory, key_json, uri)

    async def issue(
        self, account: Account, wanted: Wanted, steps: Steps, *, replaces: bytes = b"", use_dns: bool = False
    ) -> Issued:
        await steps.check()
        self._ca.asked.append(wanted)
        await self._ca.step("order")
        if account.uri not in self._ca.accounts:
            raise IssuingFailed(Failure.LOST_ACCOUNT, "no such account")
        if self._ca.failing:
            raise self._ca.failing.pop(0)
        number = len(self._ca.orders) + 1
        order = Order(wanted, f"{self.settings.directory}/order/{number}", f"token-{number:0>20}")
        self._ca.orders.append(order)
        if replaces:
            self._ca.replaced.append(replaces)
        key = ec.generate_private_key(ec.SECP256R1())
        await steps.journal(order.url, b"csr", key_pem(key))
        await self._ca.step("journalled")
        return await self._follow(order, key_pem(key), steps)

    async def resume(
        self, account: Account, journal: Journal, steps: Steps, *, use_dns: bool = False
    ) -> Issued:
        await self._ca.step("resume")
        found = [order for order in self._ca.orders if order.url == journal.order_url]
        if not found:
            raise IssuingFailed(Failure.REFUSED, "no such order")
        return await self._follow(found[0], journal.key_pem, steps)

    async def _follow(self, order: Order, key: bytes, steps: Steps) -> Issued:
        if not order.is_answered:
            await self._validate(order, steps)
        if not order.is_finalized:
            await steps.check()
            await self._ca.step("finalize")
            order.is_finalized = True
            order.issued = self._certificate(order.wanted, key)
            self._ca.certificates += 1
        await self._ca.step("download")
        return Issued(order.issued, key, order.url)

    async def _validate(self, order: Order, steps: Steps) -> None:
        expected = f"{order.token}.thumbprint"
        name = order.wanted.names[0]
        await self._ca.step("publish")
        await steps.publish_http(name, order.token, expected)
        await steps.check()
        await self._ca.step("answer")
        if self._ca.look(order.token) != expected:
            raise IssuingFailed(Failure.VALIDATION, "connection refused", names=[name])
        order.is_answered = True
        await steps.withdraw_http(name, order.token)

    def _certificate(self, wanted: Wanted, key: bytes) -> bytes:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        private = load_pem_private_key(key, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        begins = self._ca.clock.now() + self._ca.ahead
        certificate = leaf(wanted.names, private, not_before=begins, lifetime=self._ca.lifetime)
        return pem(certificate, authority()[0])

    async def renewal(self, chain_pem: bytes) -> Renewal | None:
        if isinstance(self._ca.window, IssuingFailed):
            raise self._ca.window
        return self._ca.window

    async def revoke(self, account: Account, chain_pem: bytes, reason: int) -> None:
        self._ca.revoked.append(chain_pem)

    async def rollover(self, account: Account, *, key_json: str = "") -> Account:
        return replace(account, key_json=key_json or f'{{"new after": {account.key_json}}}')

    async def profiles(self) -> dict[str, str]:
        return {}


class FakeAnswers:
    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.expected = 0
        self.account = ""

    def add(self, token: str, key_authorisation: str) -> None:
        self.known[token] = key_authorisation

    def remove(self, token: str) -> None:
        self.known.pop(token, None)

    def expect(self) -> None:
        self.expected += 1

    def know_account(self, key_json: str) -> None:
        self.account = key_json


class FakeCompany:
    """One node's view of a cluster of fakes; ``others``: whom it reaches."""

    def __init__(self, name: str, cluster: list[FakeNode]) -> None:
        self._name = name
        self._cluster = cluster
        self.own_rank: int | None = None
        self.is_majority = True
        self.is_deaf = False  # gossip does not reach it, nor from it anybody
        self.asked: list[str] = []
        self.copies: dict[str, bytes] = {}  # handed on and not withdrawn

    @property
    def name(self) -> str:
        return self._name

    def rank(self) -> int:
        if self.own_rank is not None:
            return self.own_rank
        return sorted(node.name for node in self._cluster if node.is_alive).index(self._name)

    def has_majority(self) -> bool:
        return self.is_majority

    def _others(self) -> list[FakeNode]:
        return [
            node
            for node in self._cluster
            if node.is_alive and node.name != self._name and not (self.is_deaf or node.company.is_deaf)
        ]

    def tell_challenge(self, token: str, key_authorisation: str) -> None:
        for node in self._others():
            node.answers.add(token, key_authorisation)

    def withdraw_challenge(self, token: str) -> None:
        for node in self._others():
            node.answers.remove(token)

    def announce(self, wanted_id: str, fence: int) -> None:
        for node in self._others():
            node.heard.append((wanted_id, fence))

    def hand_on(self, key: str, sealed: bytes) -> None:
        self.copies[key] = sealed
        for node in self._others():
            node.handed.append((key, sealed))

    def withdraw_copies(self, wanted_id: str, fence: int) -> None:
        self.copies = {key: sealed for key, sealed in self.copies.items() if f"/{wanted_id}/" not in key}

    def ask_for(self, name: str) -> None:
        self.asked.append(name)


class FakeNode:
    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.is_alive = True
        self.heard: list[tuple[str, int]] = []
        self.handed: list[tuple[str, bytes]] = []
        self.remarks: list[str] = []
        self.mirror = MemoryBucket()
        self.world = world
        self.company = FakeCompany(name, world.nodes)
        self.start()

    def start(self) -> None:
        """With nothing but its disk."""
        world, clock = self.world, self.world.clock
        self.served = Served(Policy(), now=clock.now)
        self.answers = FakeAnswers()
        vault = SealedVault(
            world.bucket,
            Seals([SECRET]),
            [ca.directory for ca in world.plan.cas],
            mirror=self.mirror,
            now=clock.now,
        )
        self.vault = vault
        shelf = Shelf(vault, self.served.offer, clock.now, self.served.retain)
        self.tools = Tools(
            leases=world.leases,
            record=LastingRecord(world.record, clock.now),
            vault=vault,
            shelf=shelf,
            answers=self.answers,
            company=self.company,
            authority=lambda settings: world.cas[settings.directory].at_directory(settings),
            now=clock.now,
            clock=clock.monotonic,
            chance=lambda: 0.5,
            preflight=self._preflight,
        )
        self.rounds = Rounds(self.tools, world.plan)

    @property
    def shown(self) -> dict[str, Generation]:
        """To clients, by wanted id."""
        return {each.generation.wanted_id: each.generation for each in self.served.held()}

    async def _preflight(self, _names: Sequence[str], _token: str, _answer: str) -> list[str]:
        return self.remarks

    async def hear(self) -> None:
        """What the others announced."""
        heard, self.heard = self.heard, []
        for wanted_id, fence in heard:
            await self.rounds.heard(wanted_id, fence)
        handed, self.handed = self.handed, []
        for key, sealed in handed:
            await self.rounds.handed(key, sealed)

    async def answer(self, token: str) -> str | None:
        """As its challenge server would."""
        known = self.answers.known.get(token)
        if known is not None:
            return known
        try:
            return await self.vault.challenge(token)
        except BucketUnavailable:
            return None


class World:
    """``nodes`` are called node-1 and so on; the CA asks each of them and takes the first answer."""

    def __init__(self, nodes: int = 1, plan: Plan | None = None) -> None:
        self.clock = Clock()
        self.bucket = FaultyBucket()
        self.leases = FaultyLeases(self.clock)
        self.record = MemoryAttemptRecord(self.clock.now)
        self.plan = plan or Plan((MAIL,), (CA,), digest="aa")
        self.cas = {ca.directory: FakeCa(self.clock) for ca in self.plan.cas}
        self.ca = self.cas[self.plan.cas[0].directory]
        for ca in self.cas.values():
            ca.look = self._look
        self.nodes: list[FakeNode] = []
        for number in range(1, nodes + 1):
            self.nodes.append(FakeNode(f"node-{number}", self))

    def _look(self, token: str) -> str | None:
        known = (node.answers.known.get(token) for node in self.nodes if node.is_alive)
        return next((each for each in known if each is not None), None)

    @property
    def first(self) -> FakeNode:
        return self.nodes[0]

    async def round(self) -> None:
        """Of all nodes that live, the leader first."""
        for node in self.nodes:
            if node.is_alive:
                await node.rounds.round()
        for node in self.nodes:
            await node.hear()

    async def begin(self, node: FakeNode, step: str) -> asyncio.Task[float]:
        """A round that stands still before a step at the CA; cancelling it is the death of the node."""
        reached, never = asyncio.Event(), asyncio.Event()

        async def at(name: str) -> None:
            if name == step:
                self.ca.at = None
                reached.set()
                await never.wait()

        self.ca.at = at
        task = asyncio.create_task(node.rounds.round())
        done, _ = await asyncio.wait(
            {task, asyncio.ensure_future(reached.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        assert task not in done, f"the order does not come to {step}"
        return task
