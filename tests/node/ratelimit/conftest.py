"""A limiter with a hand for its clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from node.ratelimit import Attempt, Block, Capacity, Counted, Limiter, Rules, Verdict, parse_address

SECRET = b"0123456789abcdef"
START = 1_000_000.0


@dataclass
class Bench:
    """Says things to a limiter in the words of the tests."""

    rules: Rules = field(default_factory=Rules)
    capacity: Capacity = field(default_factory=Capacity)
    node: str = "a"
    now: float = START

    def __post_init__(self) -> None:
        self.limiter = Limiter(secret=SECRET, node=self.node, capacity=self.capacity)
        self._serial = 0

    def fail(self, ip: str, user: str = "ann@example.org", password: bytes | None = None) -> Counted:
        """A new wrong password, unless one is given."""
        self._serial += 1
        guess = b"guess %d" % self._serial if password is None else password
        return self.limiter.failed(self.rules, self._attempt(ip, user, guess), self.now)

    def succeed(self, ip: str, user: str = "ann@example.org") -> None:
        self.limiter.succeeded(self.rules, self._attempt(ip, user, b"right"), self.now)

    def ask(self, ip: str, user: str = "ann@example.org") -> Verdict:
        return self.limiter.judge(self.rules, self._attempt(ip, user, b"right"), self.now)

    def is_blocked(self, ip: str, user: str = "ann@example.org") -> bool:
        return self.ask(ip, user).block is not None

    def door(self, ip: str) -> Block | None:
        address = parse_address(ip)
        assert address is not None
        return self.limiter.refuses(self.rules, address, self.now)

    def failures(self, ip: str) -> int:
        """That count against the address now."""
        address = parse_address(ip)
        assert address is not None
        return self.limiter.counts(self.rules, address, self.now).failures

    def _attempt(self, ip: str, user: str, password: bytes) -> Attempt:
        address = parse_address(ip)
        assert address is not None
        return self.limiter.attempt(self.rules, address, user, password)


@pytest.fixture
def bench() -> Bench:
    return Bench()
