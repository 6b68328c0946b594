"""Listing and ending sessions by the control socket's commands, on real connections in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.control import ControlRefused
from node.controlconnections import connection_commands
from node.sessions import Sessions
from protocols.connections import LiveConnections
from protocols.lmtp.session import lmtp_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy
from tests.support.clockwork import HandClock
from tests.support.imap import ImapLab
from tests.support.mailhost import NOW, mail_host
from tests.support.stuck import Stuck
from tests.support.wire import Wire


class Node:
    """Three servers, one registry, and the commands."""

    def __init__(self) -> None:
        self.sessions = Sessions(wall_clock=lambda: 1000.0)
        self.lab = ImapLab()
        self.lab.mail.deliver()
        self.lab.services.sessions = self.sessions
        self.commands = connection_commands(self.sessions, lambda: 1060.0)
        self.hand = HandClock()

    async def wires(self) -> dict[str, Wire]:
        host = await mail_host()
        host.services.sessions = self.sessions
        policy = ServerPolicy(name="x", hostname="mail.example.test", insecure_auth=True)
        factories = {
            "imap": self.lab.factory,
            "pop3": pop3_sessions(host.services, policy, LocalMaildropLock()),
            "lmtp": lmtp_sessions(host.services, policy, now=lambda: NOW),
        }
        made = {}
        for number, (protocol, factory) in enumerate(factories.items()):
            ids = (f"{protocol}.{n}" for n in range(100))
            live = LiveConnections(
                self.hand.wheel(),
                registry=self.sessions,
                protocol=protocol,
                server=protocol + "s",
                session_ids=ids,
            )
            made[protocol] = Wire(factory, live=live, peer=(f"192.0.2.{number}", 4000))
            await made[protocol].settle()
        await made["imap"].send(b'a LOGIN ann@example.org secret\r\nb ID ("name" "Thunder")\r\n')
        await made["pop3"].send(b"USER ann@example.test\r\nPASS secret\r\n")
        for wire in made.values():
            wire.received()
        return made

    async def ask(self, command: str, **arguments: object) -> Any:
        return await self.commands[command](arguments)


@pytest.fixture
async def node() -> Node:
    return Node()


async def test_everybody_is_listed_with_what_is_known(node: Node) -> None:
    await node.wires()
    listed = await node.ask("connections.list")
    assert listed["now"] == 1060.0
    imap = listed["connections"][0]
    assert imap["bytes_in"] > 0 < imap["bytes_out"]
    assert {**imap, "bytes_in": 0, "bytes_out": 0} == {
        "session": "imap.0",
        "protocol": "imap",
        "server": "imaps",
        "user": "ann@example.org",
        "address": "192.0.2.0",
        "port": 4000,
        "via": "",
        "ja4": "",
        "tls": False,
        "state": "idle",
        "client": "Thunder",
        "since": 1000.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }
    assert [each["user"] for each in listed["connections"]] == ["ann@example.org", "ann@example.test", ""]


FILTERS = [
    ({"user": "ANN@example.org"}, ["imap"]),
    ({"user": "nobody@example.org"}, []),
    ({"address": "192.0.2.1"}, ["pop3"]),
    ({"address": "192.0.2.0/31"}, ["imap", "pop3"]),
    ({"address": "192.0.2.0/31", "protocol": "pop3"}, ["pop3"]),
    ({"address": "2001:db8::/32"}, []),
    ({"protocol": "lmtp"}, ["lmtp"]),
    ({"server": "imaps"}, ["imap"]),
    ({"session": "pop3.0"}, ["pop3"]),
    ({"session": "pop3.0", "server": "imaps"}, []),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
async def test_filters_all_have_to_match(node: Node, filters: dict[str, str], expected: list[str]) -> None:
    await node.wires()
    listed = await node.ask("connections.list", **filters)
    assert [each["protocol"] for each in listed["connections"]] == expected


async def test_kick_tells_figures_of_the_moment_of_sessions_in_other_processes(node: Node) -> None:
    await node.wires()

    async def refresh() -> None:
        for entry in node.sessions:
            entry.connection.bytes_in = 4711  # type: ignore[misc]  # as a desk does

    commands = connection_commands(node.sessions, lambda: 1060.0, refresh)
    answer: Any = await commands["connections.kick"]({"protocol": "pop3"})
    assert [each["bytes_in"] for each in answer["kicked"]] == [4711]


async def test_kick_does_not_wait_for_figures_of_a_process_that_hangs(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.controlconnections.FIGURES_WITHIN_S", 0.001)
    wires = await node.wires()

    async def never() -> None:
        await asyncio.Event().wait()

    commands = connection_commands(node.sessions, lambda: 1060.0, never)
    await commands["connections.kick"]({"all": True})
    for wire in wires.values():
        await wire.settle()
        assert wire.is_closed


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
async def test_kick_ends_those_and_nobody_else(
    node: Node, filters: dict[str, str], expected: list[str]
) -> None:
    wires = await node.wires()
    if not expected:
        with pytest.raises(ControlRefused, match="no connection matches"):
            await node.ask("connections.kick", **filters)
    else:
        kicked = await node.ask("connections.kick", **filters)
        assert [each["protocol"] for each in kicked["kicked"]] == expected
    words = {"imap": b"* BYE Closed by", "pop3": b"-ERR [SYS/TEMP] Closed by", "lmtp": b"421 4.3.2 Closed by"}
    for protocol, wire in wires.items():
        await wire.settle()
        assert wire.is_closed is (protocol in expected)
        assert wire.received().startswith(words[protocol]) is (protocol in expected)
    assert len(node.sessions) == 3 - len(expected)


async def test_a_kick_is_logged_with_who_it_was(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    await node.wires()
    with caplog.at_level("INFO", "sora.sessions"):
        await node.ask("connections.kick", session="imap.0")
    (record,) = [each for each in caplog.records if "administrator" in each.getMessage()]
    assert getattr(record, "fields") == {  # noqa: B009
        "session": "imap.0",
        "ip": "192.0.2.0",
        "protocol": "imap",
        "server": "imaps",
        "user": "ann@example.org",
    }


async def test_kick_of_all_must_be_said(node: Node) -> None:
    wires = await node.wires()
    with pytest.raises(ControlRefused, match="or all"):
        await node.ask("connections.kick")
    assert len(node.sessions) == 3
    await node.ask("connections.kick", all=True)
    for wire in wires.values():
        await wire.settle()
    assert node.sessions.is_empty


@pytest.mark.parametrize("arguments", [{"address": "x"}, {"address": 5}, {"user": None}])
async def test_nonsense_is_refused(node: Node, arguments: dict[str, object]) -> None:
    with pytest.raises(ControlRefused) as caught:
        await node.ask("connections.kick", **arguments)
    assert caught.value.code == "usage"


async def test_kicked_in_the_middle_of_a_command_that_hangs(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is gone in time; what the command does in storage ends by itself."""
    monkeypatch.setattr("node.controlconnections.GOODBYE_WITHIN_S", 0.001)
    stuck = Stuck(node.lab.mail.store)
    node.lab.watched.real = stuck
    wire = (await node.wires())["imap"]
    await wire.send(b"s SELECT INBOX\r\n")
    stuck.hanging.add("fetch")
    wire.feed(b"f FETCH 1 ENVELOPE\r\n")
    states = [each["state"] for each in (await node.ask("connections.list"))["connections"]]
    assert states == ["active", "idle", "idle"]
    await node.ask("connections.kick", protocol="imap")
    while not wire.transport.is_aborted:
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # the transport says so
    node.hand.pass_s(58)
    await asyncio.sleep(0)
    assert stuck.cancelled == []
    node.hand.pass_s(5)
    await wire.settle()
    assert stuck.cancelled == ["fetch"]
    assert len(node.sessions) == 2
