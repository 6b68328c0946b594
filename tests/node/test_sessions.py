"""The registry: counts that are sizes of sets, limits, and nothing left when all are gone."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config import Config
from node.linkports import LinkSessions
from node.sessions import SessionLimits, Sessions, address_key
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.errors import TooManySessions
from protocols.ports import Goodbye, Identity, Peer
from storage.model import AccountId
from tests.support.echo import Sessions as EchoSessions
from tests.support.imap import ImapLab
from tests.support.wire import Wire

ANN = Identity(AccountId(1), "ann@example.test", "ann@example.test")
BOB = Identity(AccountId(2), "bob@example.test", "bob@example.test")


@dataclass(eq=False)
class Connected:
    """``Registered`` without a connection."""

    session_id: str
    peer: Peer
    has_tls: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    is_active: bool = False

    def say_goodbye(self, why: Goodbye, within_s: float | None = None) -> None:
        raise AssertionError("nobody was to be sent away")


def connected(number: int, ip: str = "192.0.2.1") -> Connected:
    return Connected(f"s{number}", Peer(ip, 1000 + number))


def sessions_with(limits: SessionLimits, *trusted: str) -> Sessions:
    sessions = Sessions([ipaddress.ip_network(text) for text in trusted])
    sessions.limit("imap", limits)
    return sessions


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
        ("0.0.0.1", "::1", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, is_same: bool) -> None:
    assert (address_key(one) == address_key(other)) is is_same


async def test_address_may_have_so_many_sockets_and_then_others_again() -> None:
    sessions = sessions_with(SessionLimits(per_address=2))
    leave = [await sessions.arrive("imap", "2001:db8::1"), await sessions.arrive("imap", "2001:db8::2")]
    assert await sessions.arrive("imap", "2001:db8::3") is None
    assert await sessions.arrive("imap", "2001:db8:1::3") is not None
    assert await sessions.arrive("pop3", "2001:db8::3") is not None
    assert sessions.refused == 1
    for _ in range(2):  # leaving twice frees one place
        assert leave[0] is not None
        leave[0]()
    assert await sessions.arrive("imap", "2001:db8::4") is not None
    assert await sessions.arrive("imap", "2001:db8::5") is None


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_arrival_reads_its_address_once(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it again for every question about it made up a third of the cost of a connection."""
    read: list[str] = []

    def reading(text: str) -> object:
        read.append(text)
        return ipaddress.IPv4Address(text)

    monkeypatch.setattr("node.sessions.ipaddress.ip_address", reading)
    registry: Any = Sessions()
    if workers > 1:
        registry = LinkSessions(SilentLink(), Config(), workers)  # type: ignore[arg-type]
        registry.budgets.begin()
    registry.limit("imap", SessionLimits(per_address=100, per_user=100))
    ip = f"192.0.2.{200 + workers}"  # that no other test has
    for _ in range(3):
        leave = await registry.arrive("imap", ip)
        assert leave is not None
        leave()
    assert read == [ip]


class SilentLink:
    """Of a worker to whose notices nobody listens."""

    def notify(self, *_notice: object) -> None: ...


async def test_trusted_networks_are_never_counted() -> None:
    sessions = sessions_with(SessionLimits(per_address=1), "10.0.0.0/8", "2001:db8::/32")
    for _ in range(5):
        assert await sessions.arrive("imap", "10.1.2.3") is not None
        assert await sessions.arrive("imap", "::ffff:10.1.2.3") is not None
        assert await sessions.arrive("imap", "2001:db8::7") is not None
        assert await sessions.arrive("imap", "") is not None
    assert sessions.is_empty


async def test_limits_per_user_and_per_user_and_address() -> None:
    limits = SessionLimits(per_user=3, per_user_and_address=2)
    sessions = sessions_with(limits, "10.0.0.0/8")
    made = [connected(n, ip) for n, ip in enumerate(["192.0.2.1"] * 3 + ["192.0.2.9"] * 3 + ["10.0.0.1"])]
    for each in made:
        sessions.opened(each, "imap", "imap")
    await sessions.logged_in("s0", ANN)
    await sessions.logged_in("s1", ANN)
    with pytest.raises(TooManySessions, match="from your address: 2 are allowed"):
        await sessions.logged_in("s2", ANN)
    await sessions.logged_in("s2", BOB)
    await sessions.logged_in("s3", ANN)
    with pytest.raises(TooManySessions, match="connections: 3 are allowed"):
        await sessions.logged_in("s4", ANN)
    await sessions.logged_in("s6", ANN)  # trusted: neither refused nor counted
    sessions.closed(made[0])
    sessions.closed(made[0])
    await sessions.logged_in("s4", ANN)
    with pytest.raises(TooManySessions):
        await sessions.logged_in("s5", ANN)
    users = [entry.user.address if entry.user else "" for entry in sessions]
    assert users.count(ANN.address) == 4
    for each in made:
        sessions.closed(each)
    assert sessions.is_empty


async def test_logging_out_gives_the_place_back() -> None:
    sessions = sessions_with(SessionLimits(per_user=1, per_user_and_address=1))
    for number in (1, 2):
        sessions.opened(connected(number), "imap", "imap")
    await sessions.logged_in("s1", ANN)
    with pytest.raises(TooManySessions):
        await sessions.logged_in("s2", ANN)
    sessions.logged_out("s1")
    sessions.logged_out("s1")
    sessions.logged_out("s9")
    await sessions.logged_in("s2", ANN)
    with pytest.raises(TooManySessions):
        await sessions.logged_in("s1", ANN)


async def test_login_of_a_connection_that_is_gone_counts_nothing() -> None:
    sessions = sessions_with(SessionLimits(per_user=1))
    one = connected(1)
    sessions.opened(one, "imap", "imap")
    sessions.closed(one)
    await sessions.logged_in("s1", ANN)
    sessions.client_named("s1", "Thunderbird", "140")
    assert sessions.is_empty


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from("acloxx"), st.integers(0, 5), st.sampled_from(["10.0.0.1", "192.0.2.1"])),
        max_size=60,
    )
)
def test_counts_are_those_of_a_plain_recount(happened: list[tuple[str, int, str]]) -> None:
    """Whatever the order of events, repeated and unknown ones included, and zero in the end."""
    asyncio.run(_happen(happened))


async def _happen(happened: list[tuple[str, int, str]]) -> None:
    sessions = sessions_with(SessionLimits(per_user=2), "10.0.0.0/8")
    there: dict[int, Connected] = {}
    logged_in: set[int] = set()
    for what, number, ip in happened:
        one = there.get(number) or connected(number, ip)
        if what == "o" and number not in there:
            there[number] = one
            sessions.opened(one, "imap", "imap")
        elif what == "l" and number not in logged_in:
            taken = sum(there[n].peer.ip == "192.0.2.1" for n in logged_in)
            is_refused = number in there and one.peer.ip == "192.0.2.1" and taken >= 2
            try:
                await sessions.logged_in(one.session_id, ANN)
            except TooManySessions:
                assert is_refused
            else:
                assert not is_refused
                logged_in |= {number} & there.keys()
        elif what in "cx":
            sessions.closed(one)
            there.pop(number, None)
            logged_in.discard(number)
        assert len(sessions) == len(there)
    for one in there.values():
        sessions.closed(one)
    assert sessions.is_empty


# --- with the driver ------------------------------------------------------------------------------


def registered(sessions: Sessions) -> LiveConnections:
    wheel = DeadlineWheel(asyncio.get_running_loop())
    return LiveConnections(wheel, registry=sessions, protocol="imap", server="imap")


async def test_who_is_connected_and_what_they_are() -> None:
    lab = ImapLab()
    sessions = Sessions(wall_clock=lambda: 1234.5)
    lab.services.sessions = sessions
    wire = Wire(lab.factory, live=registered(sessions))
    await wire.send(b'a ID ("name" "Thunder" "version" "1.2")\r\na LOGIN ann@example.org secret\r\n')
    [entry] = sessions
    assert (entry.protocol, entry.server, entry.since) == ("imap", "imap", 1234.5)
    assert entry.user is not None
    assert entry.user.address == "ann@example.org"
    assert (entry.client_name, entry.client_version) == ("Thunder", "1.2")
    assert entry.connection.peer.ip == "192.0.2.7"
    assert not entry.connection.is_active
    wire.feed(b"b NO")
    assert entry.connection.is_active
    await wire.send(b"OP\r\nc LOGOUT\r\n")
    assert sessions.is_empty


async def test_user_over_the_limit_is_told_and_may_come_back() -> None:
    lab = ImapLab()
    lab.services.sessions = sessions = sessions_with(SessionLimits(per_user=1))
    live = registered(sessions)
    first, second = Wire(lab.factory, live=live), Wire(lab.factory, live=live)
    assert b"a OK" in await first.send(b"a LOGIN ann@example.org secret\r\n")
    assert await second.greeting()
    refusal = await second.send(b"a LOGIN ann@example.org secret\r\n")
    assert refusal == b"a NO [LIMIT] Too many connections: 1 are allowed, close some first\r\n"
    await first.send(b"b LOGOUT\r\n")
    assert b"b OK" in await second.send(b"b LOGIN ann@example.org secret\r\n")


async def test_session_that_cannot_be_made_is_not_left_behind() -> None:
    sessions = Sessions()

    def broken(_connection: Any) -> Any:
        raise ValueError("no session")

    wire = Wire(broken, live=registered(sessions))
    await asyncio.sleep(0)
    assert wire.transport.is_aborted
    assert sessions.is_empty


@pytest.mark.parametrize("seed", range(20))
async def test_nobody_is_left_whatever_ends_the_connections(seed: int) -> None:
    """Bugs, vanished peers, kicks, shutdown and half-closed peers, in any order, while commands run."""
    dice = random.Random(seed)
    sessions, echo = Sessions(), EchoSessions()
    live = registered(sessions)
    wires = [Wire(echo, live=live) for _ in range(30)]
    assert len(sessions) == 30
    words = [b"a\n", b"wait\n", b"bug\n", b"latebug\n", b"stream\n", b"quit\n", b"half", b"quit\nmore\n"]
    for _ in range(100):
        wire = dice.choice(wires)
        if dice.random() < 0.8:
            wire.feed(dice.choice(words))
        elif not wire.transport.is_closing():
            act = dice.choice(["vanish", "stall", "abort", "hang up", "kick"])
            if act == "hang up":
                if not wire.connection.eof_received():
                    wire.transport.close()
            elif act == "kick":
                wire.connection.say_goodbye(Goodbye.KICKED, within_s=0.0)
            else:
                getattr(wire.transport, act)()
        await asyncio.sleep(0)
    for session in echo.made:
        session.gate.set()
    await live.shutdown(grace_s=0.01)
    assert len(live) == 0
    assert sessions.is_empty
