"""Notifications as systemd receives them: on a real datagram socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.notify import Notifier, take


@contextlib.contextmanager
def receiver(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(60)
        yield listening


@pytest.mark.parametrize("is_abstract", [False, True])
def test_states(tmp_path: Path, is_abstract: bool) -> None:
    address = f"@sora-test-{uuid.uuid4()}" if is_abstract else str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "PATH": "/bin"}
    with receiver(address) as listening:
        notifier = take(environment)
        notifier.ready()
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        notifier.stopping()
        assert listening.recv(1000) == b"READY=1"
        first, second = listening.recv(1000).decode().split("\n")
        assert first == "RELOADING=1"
        key, _, usec = second.partition("=")
        assert key == "MONOTONIC_USEC"
        assert before <= int(usec) <= time.monotonic_ns() // 1000
        assert listening.recv(1000) == b"STOPPING=1"
    assert environment == {"PATH": "/bin"}  # children do not speak for the node


async def test_the_watchdog_hears_the_loop(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    with receiver(address) as listening:
        beating = asyncio.create_task(take(environment).keep_alive())
        for _ in range(3):
            assert await asyncio.to_thread(listening.recv, 1000) == b"WATCHDOG=1"
        assert not beating.done()
        beating.cancel()
    assert environment == {}


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "20000"},
        {"NOTIFY_SOCKET": "/nonexistent/notify"},
        {"NOTIFY_SOCKET": "/nonexistent/notify", "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
    ],
)
async def test_no_watchdog_for_this_process(environment: dict[str, str]) -> None:
    async with asyncio.timeout(60):
        await take(environment).keep_alive()  # returns at once


def test_a_lost_systemd_is_said_once_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="sora")
    notifier = Notifier("/nonexistent/notify")
    notifier.ready()
    notifier.stopping()
    assert len(caplog.records) == 1
    assert "/nonexistent/notify" in caplog.text
    Notifier("").ready()
    assert len(caplog.records) == 1
