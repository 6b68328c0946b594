from __future__ import annotations

import asyncio
import logging

import pytest

from node import workers


async def test_a_failing_job_is_logged_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "FIRST_BACKOFF_S", 0.001)
    runs = 0
    done = asyncio.Event()

    async def job(stop: asyncio.Event) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("boom")
        done.set()
        await stop.wait()

    group = workers.Workers()
    with caplog.at_level(logging.ERROR, "sora.workers"):
        group.start("tester", job)
        await asyncio.wait_for(done.wait(), 60)
    await group.stop(5)
    assert runs == 3
    assert "tester failed" in caplog.text


async def test_a_job_that_does_not_stop_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    cancelled = asyncio.Event()

    async def stubborn(_stop: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    group = workers.Workers()
    group.start("stubborn", stubborn)
    await asyncio.sleep(0)
    await group.stop(0.01)
    assert cancelled.is_set()
    assert "stubborn did not stop" in caplog.text
