from __future__ import annotations

import logging

import pytest

from cluster.address import Address
from cluster.peers import MAX_ADDRESSES_OF_A_NAME, Peers, parse_peer

OWN = Address("192.0.2.1", 7946)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("mail2", ("mail2", 7946)),
        ("mail2.example.org:7000", ("mail2.example.org", 7000)),
        ("192.0.2.7", ("192.0.2.7", 7946)),
        (" 192.0.2.7:1 ", ("192.0.2.7", 1)),
        ("2001:db8::1", ("2001:db8::1", 7946)),
        ("[2001:db8::1]", ("2001:db8::1", 7946)),
        ("[2001:db8::1]:7000", ("2001:db8::1", 7000)),
    ],
)
def test_a_peer_has_a_host_and_a_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_peer(text) == parsed


@pytest.mark.parametrize(
    "text", ["", ":7946", "a:b", "a:0", "a:65536", "[::1", "[::1]7946", "a:-1", "a:b:c", "[a]:1:2"]
)
def test_what_is_no_peer_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_peer(text)


async def test_names_are_looked_up_each_time_and_our_own_addresses_are_left_out() -> None:
    answers = {"mail2": ["192.0.2.2"], "all": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}

    async def lookup(host: str, family: int) -> list[str]:
        return answers[host]

    peers = Peers(["all", "mail2", "192.0.2.1", "::ffff:192.0.2.9"], (OWN,), lookup)
    assert await peers.addresses() == [Address(f"192.0.2.{n}", 7946) for n in (2, 3, 9)]
    answers["all"] = ["192.0.2.4"] * 2
    assert await peers.addresses() == [Address(f"192.0.2.{n}", 7946) for n in (4, 2, 9)]


async def test_a_name_that_cannot_be_resolved_is_logged_once_until_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails = True

    async def lookup(host: str, family: int) -> list[str]:
        if fails and host == "mail2":
            raise OSError("unknown")
        return ["192.0.2.2"]

    peers = Peers(["mail2", "mail3"], (OWN,), lookup)
    with caplog.at_level(logging.INFO, "sora.cluster"):
        for _ in range(3):
            assert await peers.addresses() == [Address("192.0.2.2", 7946)]
        assert len(caplog.records) == 1
        fails = False
        await peers.addresses()
    assert "can be resolved again" in caplog.records[1].getMessage()


async def test_a_name_that_cannot_be_resolved_any_more_means_what_it_did() -> None:
    answers: list[list[str] | None] = [["192.0.2.2"], None, ["192.0.2.3"]]

    async def lookup(host: str, family: int) -> list[str]:
        if (answer := answers.pop(0)) is None:
            raise OSError("no server answers")
        return answer

    peers = Peers(["mail2"], (OWN,), lookup)
    found = [await peers.addresses() for _ in range(3)]
    assert found == [[Address(f"192.0.2.{n}", 7946)] for n in (2, 2, 3)]


async def test_a_name_with_very_many_addresses_gives_some() -> None:
    async def lookup(host: str, family: int) -> list[str]:
        return [f"192.0.2.{n}" for n in range(2, 200)]

    assert len(await Peers(["many"], (OWN,), lookup).addresses()) == MAX_ADDRESSES_OF_A_NAME
