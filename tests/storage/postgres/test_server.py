"""The private server: made, adopted after its owner died, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from storage.postgres.server import LocalServer, ServerError, find_binaries

from ...support.postgres import FAST, SharedServer


@pytest_asyncio.fixture
async def server(pg_server: SharedServer) -> AsyncIterator[LocalServer]:
    with tempfile.TemporaryDirectory(prefix="sora-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        made = LocalServer(
            Path(directory) / "pg", "secret", binaries=pg_server.server.binaries, options=FAST, sync=False
        )
        await made.start()
        yield made
        await made.stop()


async def test_it_is_adopted_and_stopped(server: LocalServer) -> None:
    assert await server.create_database("mail")
    assert not await server.create_database("mail")
    second = LocalServer(server.directory, "secret", binaries=server.binaries, options=FAST)
    await second.start()
    assert second.was_adopted
    assert second.pid == server.pid
    await second.stop()
    with pytest.raises(OSError):
        await server.connect()


async def test_it_starts_again_after_a_crash(server: LocalServer) -> None:
    await server.create_database("mail")
    await server.kill()
    await server.start()
    assert not server.was_adopted
    assert not await server.create_database("mail")


async def test_it_is_restarted_after_kill_9_but_never_made_anew(server: LocalServer) -> None:
    await server.create_database("mail")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.is_running:
        await asyncio.sleep(0.01)
    assert server.last_words.startswith("signal 9")
    await server.restart()
    assert not await server.create_database("mail")
    await server.kill()
    server.data.rename(server.directory / "unmounted")
    with pytest.raises(ServerError, match="is gone"):
        await server.restart()
    assert not server.data.exists()


async def test_stop_ends_one_that_hangs_with_all_its_processes(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.postgres.server.STOP_TIMEOUT_S", 0.05)
    monkeypatch.setattr("storage.postgres.server.ABORT_TIMEOUT_S", 0.5)
    hanging = server._remnants()
    assert len(hanging) > 2
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    await server.stop()
    async with asyncio.timeout(60):
        while server._remnants():
            await asyncio.sleep(0.01)
    await server.start()


async def test_a_directory_of_another_version_is_refused(server: LocalServer) -> None:
    await server.stop()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerError, match="pg_upgrade"):
        await server.start()


def test_wrong_configured_binaries_are_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=str(tmp_path)):
        find_binaries(str(tmp_path))
