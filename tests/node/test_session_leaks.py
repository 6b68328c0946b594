"""Real sockets, handshakes that are given up, faults: in the end nobody is registered, nothing is counted."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from node.config import Server
from node.listeners import Listener
from node.sessions import SessionLimits, Sessions
from node.units import Address
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from tests.support.echo import Sessions as EchoSessions
from tests.support.tlsclient import dial
from tls.contexts import FileCertificate
from tls.selfsigned import self_signed

MOST = 20


class Attack:
    """One connection that behaves in one way; ``trust`` is the clients' context."""

    def __init__(self, port: int, trust: ssl.SSLContext) -> None:
        self.port, self.trust = port, trust

    async def leave_at_once(self) -> None:
        (await dial(self.port)).close()

    async def send_garbage(self) -> None:
        with await dial(self.port) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")

    async def give_up_the_handshake(self) -> None:
        """The first half of a hello, and then nothing."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        with await dial(self.port) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, hello[: random.randrange(len(hello) + 1)])

    async def talk(self, *words: bytes) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.trust, server_hostname="localhost"
            )
        except (ConnectionError, ssl.SSLError):
            return  # refused
        await reader.readline()
        for word in words:
            writer.write(word)
        writer.transport.abort()

    async def any(self, dice: random.Random) -> None:
        words = [[], [b"a\n"], [b"wait\n"], [b"bug\n"], [b"stream\n"], [b"half"], [b"quit\n"], [b"latebug\n"]]
        act = dice.choice(
            [
                self.leave_at_once,
                self.send_garbage,
                self.give_up_the_handshake,
                lambda: self.talk(*dice.choice(words)),
            ]
        )
        await act()


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_left_of_two_hundred_odd_connections(tmp_path: Path, seed: int) -> None:
    cert, key = self_signed(["localhost"], datetime.now(UTC))
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    sessions, echo = Sessions(), EchoSessions()
    sessions.limit("imaps", SessionLimits(per_address=MOST))
    live = LiveConnections(
        DeadlineWheel(asyncio.get_running_loop()), registry=sessions, protocol="imap", server="imaps"
    )
    server = Server(type="imap", name="imaps", addr=Address("127.0.0.1", 0), tls=True)
    certificate = FileCertificate(tmp_path / "cert.pem", tmp_path / "key.pem", now=lambda: datetime.now(UTC))
    listener = Listener(server, echo, live, certificate, arrive=partial(sessions.arrive, "imaps"))
    await listener.open()
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    attack = Attack(int(listener.address.rpartition(":")[2]), trust)
    dice = random.Random(seed)
    for _ in range(10):
        await asyncio.gather(*(attack.any(dice) for _ in range(20)))
    honest = [socket.create_connection(("127.0.0.1", attack.port)) for _ in range(3)]
    await asyncio.sleep(0)
    await listener.close()
    for session in echo.made:
        session.gate.set()
    await live.shutdown(grace_s=60)
    for sock in honest:
        sock.close()
    async with asyncio.timeout(60):
        while not sessions.is_empty or len(live):
            await asyncio.sleep(0)
    assert not live.entering
    assert live.counts.accepted > 20
