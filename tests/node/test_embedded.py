from __future__ import annotations

import asyncio
import logging

import pytest

from node import workers
from node.embedded import kept_running


class Fake:
    """``failures``: so many restarts go wrong before one succeeds."""

    def __init__(self, failures: int = 0) -> None:
        self.is_running = True
        self.last_words = "signal 9; see the log"
        self.failures = failures
        self.attempts = 0
        self.restarted = asyncio.Event()

    async def restart(self) -> None:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise OSError("the data directory is gone")
        self.is_running = True
        self.restarted.set()


async def test_a_server_that_ended_is_started_again_until_it_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr("node.embedded.LOOK_EVERY_S", 0.001)
    server = Fake(failures=2)
    keeper = workers.Workers()
    keeper.start("the database", kept_running("the database", server))
    await asyncio.sleep(0)
    server.is_running = False
    await asyncio.wait_for(server.restarted.wait(), 60)
    await keeper.stop(5)
    assert server.attempts == 3
    assert "the database has ended: signal 9; see the log" in caplog.text
    assert "the data directory is gone" in caplog.text
    assert "the database runs again" in caplog.text


async def test_a_stop_is_not_taken_for_an_end(caplog: pytest.LogCaptureFixture) -> None:
    server = Fake()
    keeper = workers.Workers()
    with caplog.at_level(logging.WARNING):
        keeper.start("the database", kept_running("the database", server))
        await asyncio.sleep(0)
        await keeper.stop(5)
    server.is_running = False
    assert server.attempts == 0
    assert not caplog.text
