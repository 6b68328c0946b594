"""Keeps the workers of a node running: starts them, watches their links, replaces those that end.

A worker comes from the ``nursery``, with its end of the link and the listening sockets; everything else it is
told over the link. One that is silent while the control process counts some of its own beats hangs, and is
killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .desk import Desk, Hub
from .link import BEAT_EVERY_S, Link, LinkFault
from .nursery import STEADY_S, Child, Nursery, longer, spell
from .startfaults import WorkerFailed

if TYPE_CHECKING:
    from .certificatelink import Courier
    from .config import Config
    from .metrics.family import Snapshot

log = logging.getLogger("sora.processes")

START_WITHIN_S: Final = 60.0
RELOAD_WITHIN_S: Final = 20.0
RETRY_EVERY_S: Final = 5.0  # of a reload, with a worker that could not follow
STOP_WITHIN_S: Final = 35.0  # sessions have 20 s, then loops and stores


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker works by, as the control process has read it."""

    config: Config


@dataclass(slots=True)
class Worker:
    """One process that runs, or has just ended."""

    process: Child
    link: Link
    desk: Desk
    started: float
    is_ready: bool = False
    is_behind: bool = False  # it has not taken the last reload


class Supervisor:
    """``orders``: for a worker that begins now, and shows what ``courier`` brings. ``departed``: called with
    the name of one that is gone."""

    def __init__(
        self,
        orders: Callable[[], Orders],
        courier: Courier,
        hub: Hub,
        workers: int,
        departed: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._orders = orders
        self._courier = courier
        self._edition = 0  # of the configuration; one more with every reload
        self._hub = hub
        # that listen, by server name; they stay the control process's. To be set before ``start``
        self.sockets: Mapping[str, Sequence[socket.socket]] = {}
        self._count = workers
        self._departed = departed
        self._key = secrets.token_bytes(32)
        self._is_stopping = False
        self._is_draining = False
        self._turned_away: list[str] = []  # servers whose sockets listen on while the node drains
        self._wanted_again = asyncio.Event()
        self._retries: set[asyncio.Task[None]] = set()
        self._slots: list[asyncio.Task[None]] = []
        self.nursery = Nursery()
        self.workers: dict[str, Worker] = {}  # by name
        self.restarts = 0

    async def start(self) -> None:
        """All serve when it returns. Raises WorkerFailed."""
        try:
            self.nursery.start([each.fileno() for group in self.sockets.values() for each in group])
        except OSError as error:
            raise WorkerFailed(f"it cannot be started: {error}") from error
        names = [f"worker-{number}" for number in range(1, self._count + 1)]
        ready = [asyncio.get_running_loop().create_future() for _ in names]
        pairs = zip(names, ready, strict=True)
        self._slots = [asyncio.create_task(self._keep(name, first)) for name, first in pairs]
        await asyncio.gather(*ready)

    async def stop(self) -> None:
        """Goodbyes are said, running commands finished; what is left after ``STOP_WITHIN_S`` is killed."""
        self._is_stopping = True
        self._wanted_again.set()
        for retry in self._retries:
            retry.cancel()
        for worker in self.workers.values():
            worker.link.notify("stop")
        if self._slots:
            _, late = await asyncio.wait(self._slots, timeout=STOP_WITHIN_S)
            for name, worker in self.workers.items():
                log.warning("%s did not stop within %.0f s and is killed", name, STOP_WITHIN_S)
                worker.process.kill()
            if late:
                self.nursery.kill()  # it may hang while somebody waits for it
                await asyncio.wait(late)
        await self.nursery.stop()

    def hurry(self) -> None:
        """Cut off running commands of a stop that is under way."""
        for worker in self.workers.values():
            worker.link.notify("hurry")

    def ready(self) -> dict[str, Worker]:
        return {name: worker for name, worker in self.workers.items() if worker.is_ready}

    async def ask_all(self, method: str, *arguments: object) -> dict[str, Any]:
        """The answers by worker; one that does not answer is left out."""
        workers = self.ready()
        answers = await asyncio.gather(
            *(worker.link.call(method, *arguments, timeout_s=3.0) for worker in workers.values()),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, LinkFault):
                raise answer
        pairs = zip(workers, answers, strict=True)
        return {name: answer for name, answer in pairs if not isinstance(answer, LinkFault)}

    def stop_accepting(self, turned_away: Collection[str]) -> None:
        """Sessions stay; a worker that ends is not replaced. Of the servers ``turned_away`` the sockets go on
        listening. Idempotent."""
        self._is_draining = True
        self._turned_away = list(turned_away)
        for worker in self.ready().values():
            self._tell_accepting(worker)

    async def end_entering(self) -> None:
        """What was accepted and is no session yet is closed."""
        await self.ask_all("end_entering")

    def resume_accepting(self) -> None:
        """Undo ``stop_accepting``; workers that ended meanwhile are replaced. Idempotent."""
        self._is_draining = False
        self._wanted_again.set()
        if not self._is_stopping:
            self._wanted_again.clear()
        for worker in self.ready().values():
            self._tell_accepting(worker)

    def _tell_accepting(self, worker: Worker) -> None:
        """Notices come in order and are never given up, however busy the worker is."""
        if self._is_draining:
            worker.link.notify("stop_accepting", self._turned_away)
        else:
            worker.link.notify("resume_accepting")

    async def reload(self) -> dict[str, str]:
        """There are new orders, for the workers that run and those to come. What went wrong, by worker; these
        are asked again until they follow."""
        self._edition += 1
        workers = self.ready()
        answers = await asyncio.gather(*map(self._reload, workers.values()), return_exceptions=True)
        faults: dict[str, str] = {}
        for (name, worker), answer in zip(workers.items(), answers, strict=True):
            worker.is_behind = isinstance(answer, LinkFault)
            if isinstance(answer, LinkFault):
                faults[name] = str(answer)
                self._retry(name, worker)
            elif answer is not None:
                raise answer
        return faults

    async def _reload(self, worker: Worker) -> None:
        await self._courier.bring(worker.link)
        await worker.link.call("reload", pickle.dumps(self._orders()), timeout_s=RELOAD_WITHIN_S)

    def _retry(self, name: str, worker: Worker) -> None:
        task = asyncio.create_task(self._catch_up(name, worker, self._edition))
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    async def _catch_up(self, name: str, worker: Worker, edition: int) -> None:
        """Until the worker follows, is gone, or another reload has come."""
        told = ""
        while True:
            await asyncio.wait([worker.link.lost], timeout=RETRY_EVERY_S)
            if worker.link.lost.done() or edition != self._edition:
                return
            try:
                await self._reload(worker)
            except LinkFault as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("%s still goes on with the old settings: %s", name, told)
                continue
            if edition == self._edition:
                worker.is_behind = False
                log.info("%s has taken the new settings", name)
            return

    # --- one worker after another ---

    async def _keep(self, name: str, first: asyncio.Future[None]) -> None:
        backoff = 0.0
        while not self._is_stopping:
            try:
                worker = await self._spawn(name)
            except OSError as error:
                if self._is_stopping:
                    return
                reason = f"it cannot be started: {error}"
                if not first.done():
                    first.set_exception(WorkerFailed(reason))
                    return
                backoff = await self._pause(name, reason, backoff)
                continue
            try:
                reason = await self._serve(name, worker, first)
            finally:
                await self._bury(name, worker)
            if not first.done():
                first.set_exception(WorkerFailed(reason))
                return
            if self._is_stopping:
                return
            is_steady = time.monotonic() - worker.started > STEADY_S
            backoff = await self._pause(name, reason, 0.0 if is_steady else backoff, is_steady=is_steady)

    async def _pause(self, name: str, reason: str, pause_s: float, *, is_steady: bool = False) -> float:
        """Before a worker is replaced; the pause for the next time."""
        self.restarts += 1
        if self._is_draining:
            log.error("%s ended (%s); it is not replaced while the node drains", name, reason)
            while self._is_draining and not self._is_stopping:
                await self._wanted_again.wait()
            return 0.0
        log.error("%s ended (%s); it is replaced %s", name, reason, _when(pause_s))
        if pause_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted_again.wait(), pause_s)
        return 0.0 if is_steady else longer(pause_s)

    async def _spawn(self, name: str) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            with theirs:
                process = await self.nursery.bear(name, theirs)
            undo.pop_all()
        desk = Desk(self._hub)
        link = desk.link = Link(desk.calls, desk.notices)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        worker = self.workers[name] = Worker(process, link, desk, time.monotonic())
        if self._is_stopping:
            link.notify("stop")
        return worker

    async def _serve(self, name: str, worker: Worker, first: asyncio.Future[None]) -> str:
        """Until it ends; why."""
        descriptors = {server: [each.fileno() for each in group] for server, group in self.sockets.items()}
        edition = self._edition
        try:
            await self._courier.bring(worker.link)
            await worker.link.call(
                *("start", self._count, self._key, pickle.dumps(self._orders()), descriptors),
                timeout_s=START_WITHIN_S,
            )
            await self._bring_up_to_date(worker, edition)
        except LinkFault as error:
            return str(error)
        worker.is_ready = True
        self._hub.greet(worker.desk)
        log.info("%s serves, process %d", name, worker.process.pid)
        if not first.done():
            first.set_result(None)
        following = asyncio.create_task(self._courier.follow(worker.link))
        try:
            return await self._watch(worker.link)
        finally:
            following.cancel()

    async def _watch(self, link: Link) -> str:
        """Until the worker ends; why."""
        while not link.lost.done():
            await asyncio.wait([link.lost], timeout=BEAT_EVERY_S)
            if link.is_silent:
                return "it hangs"
        return link.lost.result()

    async def _bring_up_to_date(self, worker: Worker, edition: int) -> None:
        """With what came while it started. Raises LinkFault."""
        while edition != self._edition:
            edition = self._edition
            await self._reload(worker)
        if self._is_draining:
            self._tell_accepting(worker)

    async def _bury(self, name: str, worker: Worker) -> None:
        """Whatever it holds is free when this returns, and the process is gone."""
        was_ended = worker.link.lost.done()
        worker.link.end("the worker has ended")
        worker.desk.clear()
        if worker.is_ready:
            self._departed(name)
        if not (self._is_stopping and was_ended):
            worker.process.kill()
        status = await worker.process.wait()
        self.workers.pop(name, None)
        if status and not self._is_stopping:
            log.error("%s: %s", name, spell(status))

    @property
    def missing(self) -> int:
        """Workers that should serve and do not."""
        return self._count - len(self.ready())

    @property
    def behind(self) -> list[str]:
        """Workers that go on with the settings of before the last reload."""
        return [name for name, worker in sorted(self.ready().items()) if worker.is_behind]

    def describe(self) -> list[dict[str, object]]:
        """For ``sora-admin status``."""
        return [
            {
                "name": name,
                "pid": worker.process.pid,
                "ready": worker.is_ready,
                "behind": worker.is_behind,
                "sessions": len(worker.desk),
                "uptime_s": round(time.monotonic() - worker.started, 3),
            }
            for name, worker in sorted(self.workers.items())
        ]


def _when(pause_s: float) -> str:
    return f"in {pause_s:.1f} s" if pause_s else "at once"


def snapshot_from(plain: list[Any]) -> Snapshot:
    """Of ``plain_snapshot``, after the link."""
    return {name: {tuple(labels): tuple(numbers) for labels, numbers in samples} for name, samples in plain}


def plain_snapshot(snapshot: Snapshot) -> list[Any]:
    """Without tuples as keys, which msgpack has not."""
    return [(name, list(samples.items())) for name, samples in snapshot.items()]
