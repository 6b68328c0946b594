"""The model of components, and when checks run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from node.checks import (
    Checker,
    Disk,
    judge_certificates,
    judge_disks,
    judge_replicas,
    judge_staging,
    judge_workers,
)
from node.health import OK, Board, Finding, State, worst
from node.workers import Workers
from storage.errors import Unavailable
from storage.model import StagingLevel, StagingPlace
from storage.postgres.pool import ServerState

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("critical", "other", "whole"),
    [
        (State.OK, State.OK, State.OK),
        (State.OK, State.DEGRADED, State.DEGRADED),
        (State.OK, State.DOWN, State.DEGRADED),  # what can wait does not take the node out of service
        (State.DEGRADED, State.OK, State.DEGRADED),
        (State.DOWN, State.OK, State.DOWN),
    ],
)
def test_state_of_the_whole(critical: State, other: State, whole: State) -> None:
    board = Board()
    board.add("database", is_critical=True).record(Finding(critical), 0.0)
    board.add("store", is_critical=False).record(Finding(other), 0.0)
    assert board.state is whole


def test_what_was_not_checked_is_not_well() -> None:
    board = Board()
    board.add("database", is_critical=True)
    assert board.state is State.DEGRADED
    assert board.report(5.0, NOW)["components"][0]["checked"] is None


def test_since_is_when_the_state_began() -> None:
    component = Board().add("x", is_critical=False)
    assert not component.record(OK, 10.0), "all is well from the start: no news"
    assert component.record(Finding(State.DOWN, "a"), 20.0)
    assert not component.record(Finding(State.DOWN, "b"), 30.0)
    assert (component.since, component.checked, component.finding.detail) == (20.0, 30.0, "b")
    assert component.record(OK, 40.0)


def test_report() -> None:
    board = Board()
    board.add("database", is_critical=True).record(Finding(State.DOWN, "gone"), 100.0)
    assert board.report(160.0, NOW) == {
        "status": "down",
        "time": "2026-11-22T12:00:00Z",
        "components": [
            {
                "name": "database",
                "critical": True,
                "status": "down",
                "detail": "gone",
                "since": "2026-11-22T11:59:00Z",
                "checked": "2026-11-22T11:59:00Z",
            }
        ],
    }


def test_worst_names_all_trouble_and_nothing_else() -> None:
    findings = [Finding(State.OK, "fine"), Finding(State.DEGRADED, "slow"), Finding(State.DOWN, "gone")]
    assert worst(findings) == Finding(State.DOWN, "slow; gone")
    assert worst(findings[:1]) == findings[0]
    assert worst([]) == OK


# --- judgements ---


@pytest.mark.parametrize(
    ("level", "limit", "state"),
    [
        (StagingLevel(0, 0, 0.0), 0, State.OK),
        (StagingLevel(5, 500, 60.0), 0, State.OK),
        (StagingLevel(5, 500, 3600.0), 0, State.DEGRADED),
        (StagingLevel(5, 850, 1.0, (StagingPlace("here", 5, 850, 1.0),)), 1000, State.DEGRADED),
        (StagingLevel(5, 1000, 1.0, (StagingPlace("here", 5, 1000, 1.0),)), 1000, State.DOWN),
        # the limit is this node's, and most waits on another's disk
        (StagingLevel(5, 1000, 1.0, (StagingPlace("there", 5, 1000, 1.0),)), 1000, State.OK),
    ],
)
def test_staging(level: StagingLevel, limit: int, state: State) -> None:
    assert judge_staging(level, "here", limit).state is state


@pytest.mark.parametrize(
    ("left", "state"),
    [(timedelta(days=30), State.OK), (timedelta(days=13), State.DEGRADED), (timedelta(0), State.DOWN)],
)
def test_certificates(left: timedelta, state: State) -> None:
    finding = judge_certificates({"a.pem": NOW + left, "b.pem": NOW + timedelta(days=99)}, NOW)
    assert finding.state is state
    assert "a.pem" in finding.detail


@pytest.mark.parametrize(("free", "state"), [(50, State.OK), (9, State.DEGRADED), (1, State.DOWN)])
def test_disks(free: int, state: State) -> None:
    finding = judge_disks({"staging": Disk(free, 100), "cache": Disk(90, 100)})
    assert finding.state is state
    assert f"staging: {free}%" in finding.detail


def test_replicas_are_never_worse_than_degraded() -> None:
    primary = ServerState("primary", "primary", 0, 1, 8)
    good = ServerState("replica", "r1:5432", 0, 1, 8)
    assert judge_replicas([primary, good]) == OK
    away = ServerState("replica", "r2:5432", 0, 1, 8, is_reachable=False)
    late = ServerState("replica", "r3:5432", 0, 1, 8, lag_s=120.0)
    finding = judge_replicas([primary, good, away, late])
    assert finding == Finding(State.DEGRADED, "r2:5432 does not answer; r3:5432 is 2m behind")


async def test_workers_that_wait_to_be_restarted_are_named() -> None:
    workers = Workers()
    failed = asyncio.Event()

    async def job(_stop: asyncio.Event) -> None:
        failed.set()
        raise ValueError("a bug")

    workers.start("uploader", job)
    await failed.wait()
    await asyncio.sleep(0)
    assert workers.failures["uploader"] == 1
    assert judge_workers(workers).detail.startswith("uploader failed")
    await workers.stop(1.0)


# --- the checker ---


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def counted(outcome: Finding | Exception) -> tuple[list[int], Callable[[], Awaitable[Finding]]]:
    calls: list[int] = []

    async def check() -> Finding:
        calls.append(1)
        await asyncio.sleep(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return calls, check


async def test_checks_run_when_their_answer_is_old_and_once_for_all_who_ask() -> None:
    clock = Clock()
    checker = Checker(Board(), clock)
    calls, check = counted(OK)
    checker.add("x", check)
    await asyncio.gather(*(checker.refresh(3.0) for _ in range(50)))
    assert len(calls) == 1
    clock.now += 2.9
    await checker.refresh(3.0)
    assert len(calls) == 1
    clock.now += 0.1
    await checker.refresh(3.0)
    assert len(calls) == 2


@pytest.mark.parametrize("error", [Unavailable("no route"), OSError("no route"), TimeoutError()])
async def test_failing_check_means_down(error: Exception) -> None:
    checker = Checker(Board(), Clock())
    checker.add("x", counted(error)[1], is_critical=True)
    await checker.refresh(0.0)
    assert checker.board.state is State.DOWN
    (component,) = checker.board
    assert ("no route" in component.finding.detail) != isinstance(error, TimeoutError)


async def test_check_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.checks.TIMEOUT_S", 0.01)
    checker = Checker(Board(), Clock())

    async def hang() -> Finding:
        await asyncio.Event().wait()
        return OK

    checker.add("x", hang, is_critical=True)
    await checker.refresh(0.0)
    assert checker.board.state is State.DOWN


async def test_bug_in_a_check_is_told_and_counts_as_down() -> None:
    checker = Checker(Board(), Clock())
    checker.add("x", counted(ValueError("bug"))[1], is_critical=True)
    with pytest.raises(ValueError):
        await checker.refresh(0.0)
    assert checker.board.state is State.DOWN


async def test_close_gives_up_what_runs() -> None:
    checker = Checker(Board(), Clock())

    async def hang() -> Finding:
        await asyncio.Event().wait()
        return OK

    checker.add("x", hang)
    asking = asyncio.create_task(checker.refresh(0.0))
    await asyncio.sleep(0)
    await checker.close()
    await asking
