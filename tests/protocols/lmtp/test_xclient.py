"""XCLIENT over LMTP: who may say it, when, and what counts from then on."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from protocols.lmtp.session import lmtp_sessions
from protocols.ports import Peer, ServerPolicy, SessionFactory, Unregistered
from tests.support.mailhost import NOW, MailHost
from tests.support.wire import Wire

GREETING = b"220 mail.example.test LMTP Sora\r\n"
UNKNOWN = b"500 5.5.2 Command not known\r\n"
CLIENT = b"ADDR=203.0.113.9 PORT=1234 NAME=client.far.example HELO=hi.far.example"
TELL = b"XCLIENT " + CLIENT + b" PROTO=ESMTP SESSION=p7\r\n"
MESSAGE = b"Subject: hi\r\n\r\nbody\r\n.\r\n"


class Moves(Unregistered):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def readdressed(self, session_id: str, peer: Peer) -> None:
        self.seen.append((session_id, peer.ip))


@pytest.fixture
def moves(host: MailHost) -> Moves:
    host.services.sessions = moves = Moves()
    return moves


@pytest.fixture
def trusting(host: MailHost, policy: ServerPolicy, moves: Moves) -> SessionFactory:
    """Of a server that trusts the peer of the wire."""
    policy = replace(policy, trusts=lambda peer: peer.ip == "192.0.2.7")
    return lmtp_sessions(host.services, policy, now=lambda: NOW)


async def opened(factory: SessionFactory) -> Wire:
    wire = Wire(factory)
    await wire.greeting()
    return wire


async def test_strangers_learn_nothing_of_it(factory: SessionFactory) -> None:
    wire = await opened(factory)
    assert b"XCLIENT" not in await wire.send(b"LHLO x\r\n")
    assert await wire.send(TELL) == UNKNOWN
    assert await wire.send(b"XCLIENT\r\nFROBNICATE\r\n") == UNKNOWN * 2
    assert wire.connection.peer.ip == "192.0.2.7"


async def test_a_proxy_is_told_of_it_and_all_begins_anew(trusting: SessionFactory, moves: Moves) -> None:
    wire = await opened(trusting)
    assert (
        b"250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT TTL SESSION FORWARD\r\n"
        in await wire.send(b"LHLO proxy\r\n")
    )
    assert await wire.send(TELL) == GREETING
    assert await wire.send(b"MAIL FROM:<>\r\n") == b"503 5.5.1 Say LHLO first\r\n"
    peer = wire.connection.peer
    assert (peer.ip, peer.port, peer.via_ip, peer.proxy_session) == ("203.0.113.9", 1234, "192.0.2.7", "p7")
    assert moves.seen == [(wire.connection.session_id, "203.0.113.9")]


async def test_trace_and_log_name_the_client(
    host: MailHost, trusting: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    wire = await opened(trusting)
    with caplog.at_level(logging.INFO, "sora.xclient"):
        await wire.send(TELL)
    (line,) = caplog.records
    fields = line.__dict__["fields"]
    assert (fields["ip"], fields["via"], fields["told_proto"]) == ("203.0.113.9", "192.0.2.7", "ESMTP")
    await wire.send(b"LHLO proxy\r\nMAIL FROM:<a@far.example>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n")
    assert await wire.send(MESSAGE) == b"250 2.0.0 Delivered\r\n"
    (stored,) = await host.inbox()
    assert b"Received: from hi.far.example (client.far.example [203.0.113.9])\r\n" in stored.prefix


async def test_each_client_of_a_kept_connection(trusting: SessionFactory, moves: Moves) -> None:
    """The proxy stays trusted whoever it speaks for; what it leaves out stays as it was."""
    wire = await opened(trusting)
    assert await wire.send(TELL + b"XCLIENT ADDR=2001:db8::1\r\n") == GREETING * 2
    assert await wire.send(b"XCLIENT ADDR=[UNAVAILABLE]\r\n") == GREETING
    assert [ip for _, ip in moves.seen] == ["203.0.113.9", "2001:db8::1", "192.0.2.7"]
    assert wire.connection.peer.proxy_session == "p7"


async def test_never_in_a_transaction(host: MailHost, trusting: SessionFactory) -> None:
    wire = await opened(trusting)
    await wire.send(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\n")
    refusal = b"503 5.5.1 Not in a transaction: say RSET or finish it\r\n"
    assert await wire.send(TELL) == refusal
    assert await wire.send(b"BDAT 3\r\nabc" + TELL) == b"250 2.0.0 Ok\r\n" + refusal
    assert await wire.send(b"BDAT 0 LAST\r\n") == b"250 2.0.0 Delivered\r\n"
    assert await wire.send(TELL) == GREETING


async def test_bad_attributes_and_loops_change_nothing(trusting: SessionFactory, moves: Moves) -> None:
    wire = await opened(trusting)
    assert await wire.send(b"XCLIENT ADDR=nowhere\r\n") == b"501 5.5.4 Bad syntax\r\n"
    assert await wire.send(b"XCLIENT\r\n") == b"501 5.5.4 Bad syntax\r\n"
    assert (await wire.send(b"XCLIENT ADDR=203.0.113.9 TTL=0\r\n")).startswith(b"554 5.4.6 ")
    assert moves.seen == []
    assert wire.connection.peer.ip == "192.0.2.7"


async def test_a_client_cannot_speak_for_others_by_having_a_trusted_address(
    host: MailHost, policy: ServerPolicy
) -> None:
    """Trust belongs to who is connected, not to an address that was told."""
    policy = replace(policy, trusts=lambda peer: peer.ip == "203.0.113.9")
    wire = await opened(lmtp_sessions(host.services, policy))
    assert await wire.send(TELL) == UNKNOWN
