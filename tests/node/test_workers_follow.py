"""Workers that cannot follow a reload, begin in the middle of one, or die while the node drains."""

from __future__ import annotations

import logging
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node import supervisor
from node.controlprocess import ControlProcess
from node.supervisor import Worker
from tests.support.waiting import until

from .test_app import Imap
from .test_lifecycle import Running, drain, more, running, undo

__all__ = ["more", "running"]

pytestmark = pytest.mark.parametrize("running", [2], indirect=True)


def control(running: Running) -> ControlProcess:
    assert isinstance(running.node, ControlProcess)
    return running.node


def worker(running: Running, name: str) -> Worker:
    return control(running).supervisor.workers[name]


def is_there(running: Running, name: str, but: int) -> bool:
    """It serves, as another process."""
    found = control(running).supervisor.ready().get(name)
    return found is not None and found.process.pid != but


@asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def without_descriptors(pid: int) -> AsyncIterator[None]:
    """The process can open no file."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def test_one_that_cannot_follow_is_named_and_follows_as_soon_as_it_can(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RETRY_EVERY_S", 0.1)
    node = control(running)
    log = tmp_path / "reloaded.log"
    running.path.write_text(f'{running.path.read_text()}\n[logging]\noutput = "{log}"\n')
    async with without_descriptors(worker(running, "worker-1").process.pid):
        outcome = await running.reload()
        assert outcome["ok"]  # the others have it
        (problem,) = [each["text"] for each in outcome["problems"] if "worker" in each["text"]]
        assert "worker-1 goes on with the old settings and is asked again" in problem
        assert "Too many open files" in problem
        assert node.supervisor.behind == ["worker-1"]
        await node.monitoring.checker.refresh(0.0)
        (found,) = [each for each in node.monitoring.board if each.name == "processes"]
        assert "worker-1" in found.finding.detail
    await until(lambda: not node.supervisor.behind)
    assert "worker-1 has taken the new settings" in log.read_text()
    again = await running.reload()
    assert (again["ok"], again["applied"], again["problems"]) == (True, [], [])


async def test_a_later_reload_ends_the_attempts_for_an_earlier_one(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "RETRY_EVERY_S", 0.1)
    node = control(running)
    before = running.path.read_text()
    running.path.write_text(f'{before}\n[logging]\noutput = "{tmp_path}/a.log"\n')
    pid = worker(running, "worker-1").process.pid
    async with without_descriptors(pid):
        await running.reload()
        assert node.supervisor.behind == ["worker-1"]
        running.path.write_text(before)  # nothing to open any more
        logging.getLogger().addHandler(caplog.handler)
        assert not (await running.reload())["problems"]
        assert node.supervisor.behind == []
        await until(lambda: not node.supervisor._retries)
    assert worker(running, "worker-1").process.pid == pid


async def test_one_that_begins_during_a_reload_has_the_new_settings(running: Running) -> None:
    victim = worker(running, "worker-1").process.pid
    os.kill(victim, signal.SIGKILL)
    await until(lambda: worker_began(running, "worker-1", victim))
    beginner = worker(running, "worker-1").process.pid
    async with stopped(beginner):
        running.edit('name = "imap"\n', 'name = "imap"\nappend_limit = "3mb"\n')
        outcome = await running.reload()
        assert (outcome["ok"], outcome["problems"]) == (True, [])
        assert not is_there(running, "worker-1", victim)
    await until(lambda: is_there(running, "worker-1", victim))
    assert worker(running, "worker-1").process.pid == beginner
    async with stopped(worker(running, "worker-2").process.pid):  # so the beginner has to accept
        client = await Imap.open(running.node)
        await client.login()
        assert b"APPENDLIMIT=3145728" in await client.command("CAPABILITY")
    client.writer.close()


def worker_began(running: Running, name: str, but: int) -> bool:
    found = control(running).supervisor.workers.get(name)
    return found is not None and found.process.pid != but and not found.is_ready


async def clients_of_both(running: Running) -> dict[str, Imap]:
    """One client for each worker."""
    found: dict[str, Imap] = {}
    workers = control(running).supervisor.workers
    for name, other in (("worker-1", "worker-2"), ("worker-2", "worker-1")):
        async with stopped(workers[other].process.pid):
            found[name] = await Imap.open(running.node)
            await found[name].login()
    await until(lambda: len(control(running).hub.sessions) == 2)
    return found


async def test_one_that_dies_during_a_drain_is_not_needed_any_more(running: Running) -> None:
    clients = await clients_of_both(running)
    assert (await drain(running, "1h"))["sessions"] == 2
    os.kill(worker(running, "worker-1").process.pid, signal.SIGKILL)
    await until(lambda: control(running).session_count() == 1)
    assert b" OK " in await clients["worker-2"].command("NOOP")
    await until(lambda: list(control(running).supervisor.workers) == ["worker-2"])
    await clients["worker-2"].command("LOGOUT")  # the node ends now, see the fixture
    for each in clients.values():
        each.writer.close()


async def test_when_the_last_one_dies_the_drain_is_over(running: Running) -> None:
    clients = await clients_of_both(running)
    await drain(running, "1h")
    for each in tuple(control(running).supervisor.workers.values()):
        os.kill(each.process.pid, signal.SIGKILL)
    await until(lambda: control(running).session_count() == 0)
    for client in clients.values():
        client.writer.close()


async def test_one_that_died_during_a_drain_is_back_when_it_is_undone(running: Running) -> None:
    client = await Imap.open(running.node)
    await drain(running, "1h")
    victim = next(each for each in control(running).supervisor.workers.values() if not len(each.desk))
    name = next(name for name, each in control(running).supervisor.workers.items() if each is victim)
    os.kill(victim.process.pid, signal.SIGKILL)
    await until(lambda: name not in control(running).supervisor.workers)
    assert (await undo(running)).exit_code == 0
    running.is_drained = False
    await until(lambda: is_there(running, name, victim.process.pid))
    other = next(each for each in control(running).supervisor.workers.values() if len(each.desk))
    async with stopped(other.process.pid):
        newcomer = await Imap.open(running.node)
        assert b" OK " in await newcomer.command("NOOP")
    for each in (client, newcomer):
        each.writer.close()


async def test_one_that_begins_during_a_drain_accepts_nobody_until_it_is_undone(running: Running) -> None:
    client = await Imap.open(running.node)
    victim, name = next(
        (each.process.pid, name)
        for name, each in control(running).supervisor.workers.items()
        if not len(each.desk)
    )
    os.kill(victim, signal.SIGKILL)
    await until(lambda: worker_began(running, name, victim))
    async with stopped(worker(running, name).process.pid):
        await drain(running, "1h")
    await until(lambda: is_there(running, name, victim))
    with pytest.raises(ConnectionRefusedError):
        await Imap.open(running.node)
    assert (await undo(running)).exit_code == 0
    running.is_drained = False
    other = next(each for each in control(running).supervisor.workers.values() if len(each.desk))
    async with stopped(other.process.pid):
        newcomer = await Imap.open(running.node)
    for each in (client, newcomer):
        each.writer.close()


async def test_the_process_that_workers_come_from_dies_and_nobody_notices(running: Running) -> None:
    nursery = control(running).supervisor.nursery
    clients = await clients_of_both(running)
    victim, before = worker(running, "worker-1").process.pid, nursery.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    os.kill(victim, signal.SIGKILL)
    await until(lambda: is_there(running, "worker-1", victim))
    assert nursery.pid != before
    assert b" OK " in await clients["worker-2"].command("NOOP")
    for each in clients.values():
        each.writer.close()
