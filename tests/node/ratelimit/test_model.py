"""The limiter against a model that keeps every failure in a list and knows no capacity."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.ratelimit import Rules
from node.ratelimit.rules import FAMILIAR_FACTOR

from .conftest import Bench

RULES = Rules(
    user_failures=3,
    user_window_s=100,
    user_block_s=50,
    address_failures=6,
    address_window_s=200,
    address_block_s=80,
    fast_users=0,
    max_block_s=300,
)
# two in one neighbourhood, one elsewhere
ADDRESSES = ("192.0.2.1", "192.0.2.2", "198.51.100.1")
USERS = ("ann@example.org", "bob@example.org")
PASSWORDS = (b"a", b"b", b"c", b"d")


@dataclass
class Window:
    """Failures since the first of them, until the window is over."""

    length_s: float
    failures: list[float] = field(default_factory=list)

    def add(self, now: float) -> int:
        if self.failures and now - self.failures[0] >= self.length_s:
            self.failures.clear()
        self.failures.append(now)
        return len(self.failures)


@dataclass
class Sentence:
    """The blocks of one key."""

    base_s: float
    lasted: int = -1
    until: float = 0.0

    def impose(self, now: float, *, grows: bool) -> None:
        self.lasted = self.lasted + 1 if grows and self.until else 0
        self.until = now + max(self.base_s, min(self.base_s * 2**self.lasted, RULES.max_block_s))


class AgainstTheModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(RULES)
        self.seen: set[tuple[str, str, bytes]] = set()
        self.familiar: set[tuple[str, str]] = set()
        self.good: set[str] = set()
        pairs = [(address, user) for address in ADDRESSES for user in USERS]
        self.pairs = {pair: Window(RULES.user_window_s) for pair in pairs}
        self.addresses = {address: Window(RULES.address_window_s) for address in ADDRESSES}
        self.pair_blocks = {pair: Sentence(RULES.user_block_s) for pair in pairs}
        self.address_blocks = {address: Sentence(RULES.address_block_s) for address in ADDRESSES}

    def is_familiar(self, ip: str, user: str) -> bool:
        return (ip.rpartition(".")[0], user) in self.familiar

    @rule(seconds=st.sampled_from([1, 10, 49, 50, 100, 200, 301]))
    def wait(self, seconds: int) -> None:
        self.bench.now += seconds

    @rule(ip=st.sampled_from(ADDRESSES), user=st.sampled_from(USERS), password=st.sampled_from(PASSWORDS))
    def guess(self, ip: str, user: str, password: bytes) -> None:
        if self.bench.is_blocked(ip, user):
            return
        self.bench.fail(ip, user, password)
        if (ip, user, password) in self.seen:
            return
        self.seen.add((ip, user, password))
        now, familiar = self.bench.now, self.is_familiar(ip, user)
        budget = RULES.user_failures * (FAMILIAR_FACTOR if familiar else 1)
        if self.pairs[ip, user].add(now) >= budget:
            self.pairs[ip, user].failures.clear()
            self.pair_blocks[ip, user].impose(now, grows=not familiar)
        if not familiar and self.addresses[ip].add(now) >= RULES.address_failures:
            self.address_blocks[ip].impose(now, grows=True)

    @rule(ip=st.sampled_from(ADDRESSES), user=st.sampled_from(USERS))
    def log_in(self, ip: str, user: str) -> None:
        if self.bench.is_blocked(ip, user):
            return
        self.bench.succeed(ip, user)
        self.familiar.add((ip.rpartition(".")[0], user))
        self.good.add(ip)
        self.pairs[ip, user].failures.clear()
        self.seen -= {(ip, user, password) for password in PASSWORDS}

    @invariant()
    def blocks_are_those_of_the_model(self) -> None:
        now = self.bench.now
        for ip in ADDRESSES:
            is_address_blocked = self.address_blocks[ip].until > now
            assert (self.bench.door(ip) is not None) == (is_address_blocked and ip not in self.good)
            for user in USERS:
                expected = self.pair_blocks[ip, user].until > now
                expected |= is_address_blocked and not self.is_familiar(ip, user)
                assert self.bench.is_blocked(ip, user) == expected, (ip, user)

    @invariant()
    def delays_follow_the_failures(self) -> None:
        for ip in ADDRESSES:
            for user in USERS:
                window = self.pairs[ip, user]
                is_open = window.failures and self.bench.now - window.failures[0] < window.length_s
                count = len(window.failures) if is_open else 0
                verdict = self.bench.ask(ip, user)
                if verdict.block is None:
                    after = RULES.delay_after * (FAMILIAR_FACTOR if self.is_familiar(ip, user) else 1)
                    assert (verdict.delay_s > 0) == (count >= after), (ip, user, count)


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
