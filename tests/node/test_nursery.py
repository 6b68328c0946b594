"""The process that workers come from: what it bears, and what becomes of those when it ends or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from node import nursery as module
from node.nursery import Child, Nursery
from tests.support.waiting import until


@pytest.fixture
def links() -> ExitStack:
    """Our ends; workers end when theirs are closed."""
    return ExitStack()


@pytest.fixture
async def nursery(links: ExitStack) -> AsyncIterator[Nursery]:
    found = Nursery()
    found.start([])
    yield found
    links.close()
    await found.stop()
    assert found.pid is not None
    assert not exists(found.pid)


async def bear(nursery: Nursery, links: ExitStack, name: str = "worker-1") -> Child:
    ours, theirs = socket.socketpair()
    links.enter_context(ours)
    with theirs:
        return await nursery.bear(name, theirs)


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")


def sockets(pid: int) -> set[str]:
    """What the process has open of them beside its standard streams, by number."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if int(path.name) > 2:
                found.add(str(path.readlink()))
    return {each for each in found if each.startswith("socket:")}


async def stop_for_now(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T"))


async def test_children_of_one_process_are_told_apart_and_their_ends_are_known(
    nursery: Nursery, links: ExitStack
) -> None:
    first = await bear(nursery, links, "worker-1")
    second = await bear(nursery, links, "worker-2")
    await until(lambda: title(first.pid) == b"sora-node: worker-1")
    await until(lambda: title(second.pid) == b"sora-node: worker-2")
    assert nursery.pid is not None
    assert title(nursery.pid) == b"sora-node: nursery"
    assert os.getpgid(first.pid) == first.pid
    first.kill()
    assert await first.wait() == -signal.SIGKILL
    assert not exists(first.pid)
    first.kill()  # means nobody
    links.close()
    assert await second.wait() == 1  # left alone, in order
    assert not exists(second.pid)


async def test_a_child_has_its_own_link_and_nobody_elses(nursery: Nursery, links: ExitStack) -> None:
    first = await bear(nursery, links)
    second = await bear(nursery, links)
    assert nursery.pid is not None
    await until(lambda: b"worker" in title(first.pid) and b"worker" in title(second.pid))
    await until(lambda: nursery.pid is not None and len(sockets(nursery.pid)) == 1)
    assert not sockets(first.pid) & sockets(second.pid)
    assert not sockets(nursery.pid) & (sockets(first.pid) | sockets(second.pid))
    assert Path(f"/proc/{first.pid}/fd/0").readlink() == Path(os.devnull)


async def test_listening_sockets_have_the_same_numbers_in_a_child(links: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        nursery = Nursery()
        nursery.start([listening.fileno()])
        child = await bear(nursery, links)
        ours = Path(f"/proc/self/fd/{listening.fileno()}").readlink()
        assert Path(f"/proc/{child.pid}/fd/{listening.fileno()}").readlink() == ours
        links.close()
        await child.wait()
        await nursery.stop()


async def test_children_outlive_it_and_the_next_one_has_new_ones(nursery: Nursery, links: ExitStack) -> None:
    child = await bear(nursery, links)
    before = nursery.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await until(lambda: nursery.pid != before)
    assert exists(child.pid)
    other = await bear(nursery, links)
    other.kill()
    assert await other.wait() == -signal.SIGKILL
    child.kill()
    assert await child.wait() is None  # its parent could not tell any more


async def test_what_was_expected_of_one_that_ends_fails(nursery: Nursery, links: ExitStack) -> None:
    assert nursery.pid is not None
    await stop_for_now(nursery.pid)
    birth = asyncio.create_task(bear(nursery, links))
    await until(lambda: nursery._expected)
    os.kill(nursery.pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="killed by SIGKILL"):
        await birth
    assert (await bear(nursery, links)).pid


async def test_one_that_hangs_is_replaced(
    nursery: Nursery, links: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = await bear(nursery, links)
    before = nursery.pid
    assert before is not None
    await stop_for_now(before)
    child.kill()
    monkeypatch.setattr(module, "STATUS_WITHIN_S", 0.05)
    assert await child.wait() is None
    monkeypatch.setattr(module, "BIRTH_WITHIN_S", 0.05)
    with pytest.raises(ChildProcessError, match="no process came"):
        await bear(nursery, links)
    monkeypatch.undo()
    assert (await bear(nursery, links)).pid
    assert nursery.pid != before


async def test_one_without_descriptors_says_so_and_goes_on(nursery: Nursery, links: ExitStack) -> None:
    await bear(nursery, links)
    before = nursery.pid
    assert before is not None
    soft, hard = resource.prlimit(before, resource.RLIMIT_NOFILE)
    resource.prlimit(before, resource.RLIMIT_NOFILE, (3, hard))
    for _ in range(2):
        with pytest.raises(ChildProcessError, match="descriptor"):
            await bear(nursery, links)
    resource.prlimit(before, resource.RLIMIT_NOFILE, (5, hard))  # for the link, not for the process
    with pytest.raises(ChildProcessError, match="Too many open files"):
        await bear(nursery, links)
    resource.prlimit(before, resource.RLIMIT_NOFILE, (soft, hard))
    assert (await bear(nursery, links)).pid
    assert nursery.pid == before


async def test_a_stop_ends_one_that_hangs(links: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_WITHIN_S", 0.05)
    nursery = Nursery()
    nursery.start([])
    await bear(nursery, links)
    pid = nursery.pid
    assert pid is not None
    await stop_for_now(pid)
    await nursery.stop()
    assert not exists(pid)
    await nursery.stop()
    links.close()


async def test_one_that_cannot_begin_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    nursery = Nursery()
    with pytest.raises(FileNotFoundError):
        nursery.start([])
    await nursery.stop()
    gc.collect()  # a socket left open would be warned of
