"""What operators are told about an address, server by server."""

from __future__ import annotations

from typing import Any

import pytest

from node.config import AuthRateLimit, Config, Server
from node.control import ControlRefused
from node.controlblocks import MAX_LISTED, block_commands
from node.loginguard import Guards
from node.ratelimit import Block, Subject, parse_address
from node.units import parse_network
from tests.support.passwords import Clock

HOME = "192.0.2.7"


class Office:
    """Three servers: by default, off, and with this network exempt."""

    def __init__(self) -> None:
        exempt = AuthRateLimit(exempt_networks=(parse_network("192.0.2.0/24"),))
        self.servers = (
            Server(name="imap"),
            Server(name="off", auth_rate_limit=AuthRateLimit(enabled=False)),
            Server(name="exempt", auth_rate_limit=exempt),
        )
        self.clock = Clock()
        self.guards = Guards(Config(servers=self.servers), check_takes_s=lambda: 0.0, clock=self.clock)
        for server in self.servers:
            self.guards.of(server)
        self.commands = block_commands(self.guards, lambda: self.clock() + self.set_ahead_s)
        self.set_ahead_s = 0.0

    async def ask(self, command: str, **arguments: object) -> Any:
        return await self.commands[f"blocks.{command}"](arguments)

    def fail(self, ip: str, times: int) -> None:
        guard = self.guards.of(self.servers[0])
        address = parse_address(ip)
        assert guard is not None
        assert address is not None
        for n in range(times):
            attempt = self.guards.limiter.attempt(guard.rules, address, f"user{n}@example.org", b"guess")
            self.guards.limiter.failed(guard.rules, attempt, self.clock.now)


@pytest.fixture
def office() -> Office:
    return Office()


async def test_nothing_known_is_said_so(office: Office) -> None:
    servers = (await office.ask("why", address=HOME))["servers"]
    assert servers["imap"]["words"] == ["Nothing counts against it."]
    assert servers["off"]["words"] == [
        "auth_rate_limit is off here: failures do not count, and only blocks by operators hold."
    ]
    assert servers["exempt"]["words"] == [
        "It is exempt here, because 192.0.2.0/24 is in exempt_networks: nothing counts, and no block holds."
    ]


async def test_every_server_sees_a_block_its_own_way(office: Office) -> None:
    office.fail(HOME, 10)
    servers = (await office.ask("why", address=HOME))["servers"]
    assert [servers[name]["is_refused_at_connect"] for name in ("imap", "off", "exempt")] == [
        True,
        False,
        False,
    ]
    (block, counted) = servers["imap"]["words"][:2]
    assert (
        "Rule fast_block_threshold of auth_rate_limit counted failed logins for 10 different users" in block
    )
    assert "The last user tried was user9@example.org." in block
    assert "It has 10 failed logins that count here, 0 on other nodes; 50 block it." in counted


async def test_ipv6_is_explained_and_removed_by_any_address_of_its_prefix(office: Office) -> None:
    office.fail("2001:db8::1", 10)
    seen = (await office.ask("why", address="2001:db8::2"))["servers"]["imap"]
    assert seen["counted_as"] == "2001:db8::/64"
    assert 'exempt_networks = ["2001:db8::/64"]' in seen["hint"]
    (removed,) = (await office.ask("remove", subject="2001:db8::3"))["removed"]
    assert removed["subject"] == "2001:db8::/64"
    assert (await office.ask("list"))["blocks"] == []


async def test_an_operator_is_told_where_his_block_does_not_hold(office: Office) -> None:
    added = await office.ask("add", subject=HOME, reason="test")
    assert added["exempt_on"] == ["exempt"]
    assert added["until"] is None
    again = await office.ask("add", subject=HOME, lasts_s=60)  # the later word holds
    assert again["until"] == office.clock.now + 60
    office.clock.now += 60
    with pytest.raises(ControlRefused, match="not blocked"):
        await office.ask("remove", subject=HOME)


async def test_a_block_may_be_added_again_in_the_same_instant(office: Office) -> None:
    """A clock need not move between two commands."""
    await office.ask("add", subject=HOME, lasts_s=600)
    await office.ask("remove", subject=HOME)
    await office.ask("add", subject=HOME, lasts_s=60)
    (block,) = (await office.ask("list"))["blocks"]
    assert block["until"] == office.clock.now + 60


async def test_long_lists_are_cut_and_say_so(office: Office) -> None:
    now = office.clock.now
    for n in range(MAX_LISTED + 5):
        office.guards.absorb(Block(Subject(n << 9 | 64), "", "address", "other", n, now, now + 60))
    listed = await office.ask("list")
    assert (len(listed["blocks"]), listed["total"]) == (MAX_LISTED, MAX_LISTED + 5)


async def test_people_read_times_by_the_clock_on_the_wall(office: Office) -> None:
    """It was set an hour ahead since the start; the block is as long as it was."""
    office.clock.now = 1_800_000_000.0
    office.fail(HOME, 1)
    told = await office.ask("add", subject=HOME, lasts_s=600.0)
    office.set_ahead_s = 3600.0
    listed = await office.ask("list")
    assert listed["now"] == office.clock.now + 3600
    assert listed["blocks"][0]["until"] == told["until"] + 3600 == listed["now"] + 600
    why = await office.ask("why", address=HOME)
    assert why["blocks"][0]["since"] == told["since"] + 3600
    counts = why["servers"]["imap"]["counts"]
    assert counts["since"] == pytest.approx(office.clock.now + 3600, abs=1)
    assert "(10m from now)" in why["servers"]["imap"]["words"][0]
