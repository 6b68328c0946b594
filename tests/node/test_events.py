"""When a node runs scripts on events, and what it says of its ManageSieve server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from node.config import Sieve
from node.events import NEEDED, event_queue, sieve_url
from protocols.sieve.registry import NAMES


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening


def server(name: str, kind: str, *, start: bool = True) -> Any:
    return SimpleNamespace(name=name, type=kind, start=start)


def config(*servers: Any, extensions: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        servers=servers, hostname="mail.example.org", sieve=Sieve(enabled_extensions=extensions)
    )


def test_first_managesieve_server_is_told(bound: socket.socket) -> None:
    port = bound.getsockname()[1]
    servers = (server("imap", "imap"), server("off", "managesieve", start=False), server("on", "managesieve"))
    sockets = {"imap": [bound], "on": [bound]}
    assert sieve_url(config(*servers), sockets) == f"sieve://mail.example.org:{port}"
    assert sieve_url(config(*servers[:2]), sockets) == ""


def test_standard_port_is_not_said() -> None:
    standard: Any = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 4190))
    url = sieve_url(config(server("sieve", "managesieve")), {"sieve": [standard]})
    assert url == "sieve://mail.example.org"


@pytest.mark.parametrize(
    ("extensions", "runs"),
    [
        ((), True),
        (tuple(sorted(NEEDED)), True),
        *((tuple(sorted(NAMES - {each})), False) for each in sorted(NEEDED)),
    ],
)
async def test_site_may_switch_it_off(extensions: tuple[str, ...], *, runs: bool) -> None:
    services: Any = SimpleNamespace(annotations=object(), filter=object())
    assert (event_queue(config(extensions=extensions), services) is not None) is runs


async def test_nothing_runs_without_annotations_or_sieve() -> None:
    for services in (SimpleNamespace(annotations=None, filter=object()),
                     SimpleNamespace(annotations=object(), filter=None)):  # fmt: skip
        found: Any = services
        assert event_queue(config(), found) is None
