"""XCLIENT over POP3: the client's address is the one that logs in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import Identity, Peer, ServerPolicy, SessionFactory
from tests.support.mailhost import MailHost
from tests.support.wire import Wire

GREETING = b"+OK Sora POP3 server ready\r\n"
TELL = b"XCLIENT ADDR=203.0.113.9 PORT=1234 SESSION=p7\r\n"
UNKNOWN = b"-ERR Command not known\r\n"


class Watching:
    """Passwords that note who asks."""

    def __init__(self, host: MailHost) -> None:
        self._host = host
        self.peers: list[Peer] = []

    async def authenticate(
        self, protocol: str, peer: Peer, username: str, password: bytes, session_id: str = ""
    ) -> Identity:
        self.peers.append(peer)
        return await self._host.passwords.authenticate(protocol, peer, username, password, session_id)


@pytest.fixture
def watching(host: MailHost) -> Watching:
    return Watching(host)


@pytest.fixture
def trusting(host: MailHost, locks: LocalMaildropLock, watching: Watching) -> SessionFactory:
    policy = ServerPolicy(
        name="pop3",
        hostname="mail.example.test",
        insecure_auth=True,
        trusts=lambda peer: peer.ip == "192.0.2.7",
    )
    return pop3_sessions(replace(host.services, authenticator=watching), policy, locks)


async def test_strangers_learn_nothing_of_it(factory: SessionFactory) -> None:
    wire = Wire(factory)
    await wire.greeting()
    assert b"XCLIENT" not in await wire.send(b"CAPA\r\n")
    assert await wire.send(TELL) == UNKNOWN
    assert b"+OK" in await wire.send(b"USER ann@example.test\r\nPASS secret\r\n")
    assert await wire.send(TELL) == UNKNOWN


async def test_the_client_logs_in(trusting: SessionFactory, watching: Watching) -> None:
    wire = Wire(trusting)
    await wire.greeting()
    assert b"XCLIENT NAME ADDR PORT " in await wire.send(b"CAPA\r\n")
    assert await wire.send(TELL) == GREETING
    assert b"-ERR" not in await wire.send(b"USER ann@example.test\r\nPASS secret\r\n")
    (peer,) = watching.peers
    assert (peer.ip, peer.port, peer.via_ip, peer.proxy_session) == ("203.0.113.9", 1234, "192.0.2.7", "p7")
    assert await wire.send(TELL) == b"-ERR Not in this state\r\n"


async def test_a_name_that_was_given_before_does_not_count(trusting: SessionFactory) -> None:
    wire = Wire(trusting)
    await wire.greeting()
    answers = await wire.send(b"USER ann@example.test\r\n" + TELL + b"PASS secret\r\n")
    assert answers.endswith(GREETING + b"-ERR USER first\r\n")


async def test_bad_attributes_and_loops_change_nothing(trusting: SessionFactory) -> None:
    wire = Wire(trusting)
    await wire.greeting()
    assert await wire.send(b"XCLIENT ADDR=x\r\nXCLIENT \xff\r\n") == b"-ERR Bad syntax\r\n" * 2
    assert (await wire.send(b"XCLIENT ADDR=203.0.113.9 TTL=0\r\n")).startswith(b"-ERR [SYS/PERM] Proxies")
    assert wire.connection.peer.ip == "192.0.2.7"


async def test_a_client_of_a_proxy_on_this_machine_is_not_on_this_machine(
    host: MailHost, locks: LocalMaildropLock
) -> None:
    """Its password has crossed a network before it came here."""
    policy = ServerPolicy(name="pop3", hostname="mail.example.test", trusts=lambda _peer: True)
    wire = Wire(pop3_sessions(host.services, policy, locks), peer=("127.0.0.1", 4000))
    await wire.greeting()
    assert b"SASL PLAIN" in await wire.send(b"CAPA\r\n")
    assert await wire.send(TELL) == GREETING
    assert b"SASL PLAIN" not in await wire.send(b"CAPA\r\n")
