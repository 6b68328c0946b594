"""Record what real Serf agents send each other.

    python -m tests.cluster.capture > tests/cluster/data/agents.txt

Three agents form a cluster, send events and queries, one changes its tags, one is killed, one leaves.
Datagrams are read from the loopback interface (root is needed), streams by taking part in them.
Each line: kind, what it was opened to (types of the messages), and the bytes as they were on the wire.
"""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from cluster import codec, framing, streams
from cluster.address import Address
from cluster.keyring import KeyRing
from cluster.messages import MessageType, NodeRecord, Ping, PushPull, State
from tests.support.serfagent import SerfAgent
from tests.support.waiting import eventually

KEY = bytes(range(32))
RING = KeyRing([KEY])
_NONCE = bytes(12)
_PER_SHAPE = 2  # vectors with the same types of messages
_EVERY_PACKET = 3  # ETH_P_ALL
_INCOMING = 0  # PACKET_HOST; on loopback everything passes twice


class Vector(NamedTuple):
    """``kind``: datagram, request or reply."""

    kind: str
    raw: bytes


class Tap:
    """Datagrams between the agents, from the loopback interface."""

    def __init__(self, ports: set[int]) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PACKET))
        self._socket.bind(("lo", _EVERY_PACKET))
        self._socket.settimeout(0.2)
        self._ports = ports
        self._is_over = False
        self.datagrams: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            try:
                packet, address = self._socket.recvfrom(65_536)
            except TimeoutError:
                continue
            if address[2] == _INCOMING and packet[12:14] == b"\x08\x00" and packet[23] == socket.IPPROTO_UDP:
                self._take(packet[14 + 4 * (packet[14] & 15) :])

    def _take(self, udp: bytes) -> None:
        source, target, length = struct.unpack_from("!HHH", udp)
        if source in self._ports and target in self._ports:
            self.datagrams.append(udp[8:length])

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        self._socket.close()


def ask(agent: SerfAgent, raw: bytes) -> bytes:
    """The reply to one request."""
    ip, _, port = agent.address.rpartition(":")
    with socket.create_connection((ip, int(port)), timeout=5) as stream:
        stream.sendall(raw)
        return read_frame(stream)


def read_frame(stream: socket.socket) -> bytes:
    data = b""
    while (size := streams.frame_size(data)) is None or len(data) < size:
        piece = stream.recv(65_536)
        if not piece:
            raise ConnectionError("the agent hung up")
        data += piece
    return data


def push_pull(name: str, address: Address, *, is_join: bool) -> bytes:
    record = NodeRecord(name, address, b"", 1, State.ALIVE)
    return codec.encode(PushPull((record,), b"", is_join))


def take_join(agent: SerfAgent, ip: str) -> Iterator[Vector]:
    """The request of an agent that is told to join us."""
    with socket.create_server((ip, 0)) as server:
        port = server.getsockname()[1]
        told = threading.Thread(target=agent.run, args=("join", f"{ip}:{port}"), kwargs={"check": False})
        told.start()
        stream, _ = server.accept()
        with stream:
            yield Vector("request", read_frame(stream))
            stream.sendall(
                streams.encode_reply(push_pull("x", Address(ip, port), is_join=True), RING, _NONCE)
            )
        told.join()


def scenes(a: SerfAgent, b: SerfAgent, c: SerfAgent, ip: str) -> Iterator[Vector]:
    """What makes the agents talk; the streams of it."""
    for each in (b, c):
        each.run("join", a.address)
    eventually(lambda: list(a.states().values()) == ["alive"] * 3, what="three alive")
    a.run("event", "deploy", "a payload of some bytes")
    b.run("event", "-coalesce=false", "restart")
    a.run("query", "-timeout=1s", "uptime", "how long")
    b.run("tags", "-set", "role=mx", "-set", "zone=eu-1")
    a.run("reachability")
    name = a.name
    yield Vector("reply", ask(a, streams.encode_request(codec.encode(Ping(7, name)), RING, _NONCE)))
    whole = push_pull("x", Address(ip, 9), is_join=False)
    yield Vector("reply", ask(a, streams.encode_request(whole, RING, _NONCE)))
    yield from take_join(a, ip)
    time.sleep(2.0)
    c.kill()
    eventually(lambda: a.states()["c"] == "failed", what="c failed")
    b.run("leave")
    eventually(lambda: a.states()["b"] == "left", what="b left")


def record() -> list[Vector]:
    """About half a minute."""
    ip = "127.0.0.34"
    with (
        SerfAgent("a", "127.0.0.31", KEY) as a,
        SerfAgent("b", "127.0.0.32", KEY, tags=["role=store"]) as b,
        SerfAgent("c", "127.0.0.33", KEY) as c,
    ):
        tap = Tap({int(each.address.rpartition(":")[2]) for each in (a, b, c)})
        try:
            found = list(scenes(a, b, c, ip))
        finally:
            tap.close()
    return found + [Vector("datagram", raw) for raw in tap.datagrams]


def shape(vector: Vector) -> str:
    """The layers and the types of its messages, as in ``crc+compress+compound: ping alive``."""
    if vector.kind != "datagram":
        decode = streams.decode_request if vector.kind == "request" else streams.decode_reply
        return type(decode(vector.raw, RING)).__name__.lower()
    plain = framing.open_datagram(vector.raw, RING, b"")
    layers = [type_name(plain)] if plain[0] in (7, 9, 12) else []
    if plain[0] == MessageType.CRC:
        layers += [type_name(plain[5:])] * (plain[5] in (7, 9))
    types = [type_name(raw) for raw in framing.unwrap(plain).messages]
    return f"{'+'.join(layers)}:{' '.join(types)}"


def type_name(raw: bytes) -> str:
    name = MessageType(raw[0]).name.lower()
    return f"{name}{raw[1]}" if raw[0] == MessageType.USER else name


def chosen(vectors: list[Vector]) -> list[tuple[str, Vector]]:
    """A few of each shape, in a fixed order."""
    shaped = sorted(((shape(vector), vector) for vector in vectors), key=lambda pair: (pair[1].kind, pair[0]))
    groups = itertools.groupby(shaped, key=lambda pair: (pair[1].kind, pair[0]))
    return [pair for _, group in groups for pair in itertools.islice(group, _PER_SHAPE)]


def main() -> None:
    vectors = record()
    for what, vector in chosen(vectors):
        sys.stdout.write(f"{vector.kind}\t{what}\t{vector.raw.hex()}\n")


if __name__ == "__main__":
    main()
