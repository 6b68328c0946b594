"""Blocks among nodes whose clocks are off by anything, from one life to the next, in any order of deeds.

``python -m tests.sim --scenario wrong-clocks --seeds 1-1000`` does the same on real engines, more slowly.
"""

from __future__ import annotations

import random

import pytest

from node.ratelimit import parse_subject

from .cluster import Member, Nodes

IPS = ("203.0.113.1", "203.0.113.2", "203.0.113.3")
NAMES = "abcd"
SKEWS_S = (0.0, 0.0, 0.3, -0.3, 5.0, -5.0, 3_600.0, -3_600.0, 400 * 86_400.0)
LASTS_S = (20.0, 60.0, 3_600.0, 30 * 86_400.0)
STEPS = 120
SLACK_S = 0.1
AT_ONCE = 20  # seeds of one test


class Company:
    """Words come from nodes that have heard of the one before on that address."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.nodes = Nodes()
        self.count = 0
        self.last: dict[str, tuple[str, float, bool]] = {}  # number of the block, its end, whether lifted
        self.over: dict[str, set[str]] = {ip: set() for ip in IPS}
        self.seen: dict[str, set[str]] = {}
        for name in NAMES:
            self.start(name)

    @property
    def now(self) -> float:
        return self.nodes.clocks.now

    def start(self, name: str) -> None:
        self.nodes.add(name, skew_s=self.rng.choice(SKEWS_S))
        self.seen[name] = set()

    def held(self, member: Member) -> dict[str, float]:
        """What is left of each block, by its number."""
        now = member.guards.clock()
        return {block.reason: block.until - now for block in member.guards.limiter.blocks(now)}

    def step(self) -> None:
        self.rng.choice((self.speak, self.speak, self.speak, self.wait, self.cut, self.heal, self.restart))()
        for name, member in self.nodes.members.items():
            self.seen[name] |= set(self.held(member))

    def speak(self) -> None:
        ip, name = self.rng.choice(IPS), self.rng.choice(NAMES)
        member, (number, ends, is_lifted) = self.nodes.members[name], self.last.get(ip, ("", 0.0, True))
        holds = number in self.held(member)
        if not number or (number in self.seen[name] and not holds):
            self.block(ip, member)
        elif holds and not is_lifted:
            if self.rng.random() < 0.3:
                self.block(ip, member)
                return
            member.guards.remove(parse_subject(ip, 64))
            self.over[ip].add(number)
            self.last[ip] = (number, ends, True)

    def block(self, ip: str, member: Member) -> None:
        self.count += 1
        lasts_s = self.rng.choice(LASTS_S)
        if ip in self.last:
            self.over[ip].add(self.last[ip][0])
        self.last[ip] = (str(self.count), self.now + lasts_s, False)
        member.guards.add(parse_subject(ip, 64), lasts_s=lasts_s, reason=str(self.count))

    def wait(self) -> None:
        self.nodes.pass_by(self.rng.choice((0.001, 1.0, 15.0, 700.0, 90_000.0)))
        for member in self.nodes.members.values():
            member.guards.limiter.sweep(member.guards.clock())
            member.clustering.blocks.refresh()

    def cut(self) -> None:
        self.nodes.cluster.cut(*self.rng.sample(NAMES, 2))

    def heal(self) -> None:
        self.nodes.cluster.heal()

    def restart(self) -> None:
        """Of one whose words the others have."""
        self.heal()
        name = self.rng.choice(NAMES)
        self.nodes.cluster.kill(name)
        self.start(name)

    def check(self) -> None:
        for name, member in self.nodes.members.items():
            held = self.held(member)
            for ip in IPS:
                number, ends, is_lifted = self.last.get(ip, ("", 0.0, True))
                revived = self.over[ip] & set(held)
                assert not revived, f"{name} refuses {ip} for blocks {revived}, which are over"
                left = 0.0 if is_lifted else max(0.0, ends - self.now)
                assert held.get(number, 0.0) == pytest.approx(left, abs=SLACK_S), f"{name}: block {number}"


@pytest.mark.parametrize("first", range(0, 3 * AT_ONCE, AT_ONCE))
def test_in_the_end_all_refuse_the_same_until_the_same_moment(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        company = Company(seed)
        try:
            for _ in range(STEPS):
                company.step()
            company.heal()
            company.check()
        except AssertionError as fault:
            raise AssertionError(f"seed {seed}: {fault}") from fault
