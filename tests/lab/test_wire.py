"""The wire of the lab does to frames what it was told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from .lab import ADDRESSES, Lab, until

PORT = 4711
FEW_S = 30.0
SO_RCVBUFFORCE = 33  # of asm-generic/socket.h
RECEIVES_BYTES = 4_000_000  # room for all that a test sends before it looks


@contextmanager
def sockets(lab: Lab, *names: str) -> Iterator[list[socket.socket]]:
    """Datagram sockets on machines."""
    with ExitStack() as stack:
        made = []
        for name in names:
            with lab.at(name):
                each = stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            each.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVES_BYTES)
            each.bind((ADDRESSES[name], PORT))
            each.settimeout(FEW_S)
            made.append(each)
        yield made


def passes(source: socket.socket, target: socket.socket) -> bool:
    source.sendto(b"frame", target.getsockname())
    target.settimeout(FEW_S)
    return target.recv(100) == b"frame"


def is_dropped(lab: Lab, source: socket.socket, target: socket.socket) -> bool:
    """By the wire, and not heard."""
    before = lab.wire(figures=[])["dropped"]
    source.sendto(b"frame", target.getsockname())
    until("the wire has dropped it", lambda: lab.wire(figures=[])["dropped"] > before)
    target.settimeout(0.1)
    try:
        return not target.recv(100)
    except TimeoutError:
        return True


def test_a_cut_is_one_way_and_heals(lab: Lab) -> None:
    with sockets(lab, "client", "node-1") as (client, node):
        assert passes(client, node)
        assert passes(node, client)
        lab.cut("client", "node-1")
        assert is_dropped(lab, client, node)
        assert passes(node, client)
        lab.heal()
        assert passes(client, node)


def test_frames_are_late_by_what_was_said(lab: Lab) -> None:
    with sockets(lab, "client", "node-2") as (client, node):
        assert passes(client, node)
        lab.delay(0.2, 0.0, "client", "node-2")
        begun = time.monotonic()
        client.sendto(b"frame", node.getsockname())
        node.settimeout(FEW_S)
        assert node.recv(100) == b"frame"
        assert 0.2 <= time.monotonic() - begun < FEW_S


def test_about_the_share_that_was_said_is_lost(lab: Lab) -> None:
    with sockets(lab, "client", "node-3") as (client, node):
        assert passes(client, node)
        before = lab.wire(figures=[])
        lab.lose(0.5, "client", "node-3")
        for _ in range(400):
            client.sendto(b"frame", node.getsockname())
        until("the wire has seen all", lambda: seen(lab, before) >= 400)
        lab.heal()
        client.sendto(b"end", node.getsockname())
        node.settimeout(FEW_S)
        heard = 0
        while node.recv(100) != b"end":
            heard += 1
        assert 120 < heard < 280  # 200 is the mean; 80 are eight standard deviations
        assert lab.wire(figures=[])["dropped"] - before["dropped"] >= 400 - heard


def seen(lab: Lab, before: dict[str, Any]) -> int:
    """Frames that the wire passed or dropped since, between any machines."""
    now = lab.wire(figures=[])
    return int(now["passed"] + now["dropped"] - before["passed"] - before["dropped"])
