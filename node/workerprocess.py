"""A protocol process of a node, forked by ``nurseryprocess``.

The first call over its link, ``start``, brings the configuration and the numbers of the listening sockets;
when the link ends, so does the process.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from tls.errors import CertificateUnusable

from . import logs
from .applying import Parts, put_in_force
from .certificatelink import Intake
from .certificates import Certificates
from .core import Core
from .doors import Doors, password_verifier
from .gathering import Gathered
from .link import Answerer, Hearer, Link, LinkFault
from .linkports import LinkGates, LinkMaildropLock, LinkSearches, LinkSessions
from .metrics.lag import LoopLag
from .metrics.registry import Registry
from .metrics.sources import add_core, add_doors, add_outbox
from .relaying import worker_outbox
from .reload import ReloadRefused
from .shared import NodeState
from .startfaults import START_FAULTS
from .supervisor import Orders, plain_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("sora.processes")

ORPHANED_WITHIN_S: Final = 5.0
# The uploader gathers for longer, and a notice costs both processes.
STAGED_NOTICE_S: Final = 0.05


class WorkerProcess:
    def __init__(self) -> None:
        self._exit = AsyncExitStack()
        self._stop = asyncio.Event()
        self._is_orphaned = False
        self._doors: Doors | None = None
        self._intake = Intake()
        self._calls: dict[str, Answerer] = {
            "start": self._start,
            "metrics": self._metrics,
            "counts": self._counts,
            "figures": self._figures,
            **self._intake.calls(),
        }
        self._notices: dict[str, Hearer] = {"stop": self._stop.set, "hurry": self._hurry}
        self.link = Link(self._calls, self._notices)

    async def run(self, ours: socket.socket) -> int:
        """Until told to stop, or left alone; the exit status."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.link, sock=ours)
        self.link.lost.add_done_callback(lambda _: self._orphaned())
        await self._stop.wait()
        try:
            async with asyncio.timeout(ORPHANED_WITHIN_S if self._is_orphaned else None):
                await self._exit.aclose()
        except TimeoutError:
            log.error("did not end in order within %.0f s", ORPHANED_WITHIN_S)
            return 1
        self.link.end("stopped")
        return 1 if self._is_orphaned else 0

    def _orphaned(self) -> None:
        if not self._stop.is_set():
            log.error("the control process is gone")
            self._is_orphaned = True
        self._hurry()
        self._stop.set()

    def _hurry(self) -> None:
        if self._doors is not None:
            self._doors.hurry()

    async def _start(
        self, workers: int, key: bytes, pickled: bytes, descriptors: dict[str, list[int]]
    ) -> None:
        # from our own control process, over a socket that nobody else has
        orders: Orders = pickle.loads(pickled)  # noqa: S301
        config = orders.config
        logs.configure(output=config.logging.output, style=config.logging.format, level=config.logging.level)
        sockets = {
            server: [socket.socket(fileno=number) for number in numbers]
            for server, numbers in descriptors.items()
        }
        try:
            await self._open(orders, workers, key, sockets)
        except START_FAULTS as error:
            raise LinkFault(f"{type(error).__name__}: {error}") from error

    async def _open(
        self,
        orders: Orders,
        workers: int,
        key: bytes,
        sockets: Mapping[str, Sequence[socket.socket]],
    ) -> None:
        config = orders.config
        certificates = Certificates(config, self._intake.materials)
        certificates.served.demand.wanted = lambda name: self.link.notify("wanted", name)
        self._intake.serve(certificates)
        core = Core(config, self._exit, processes=workers + 1, certificates=certificates)
        await core.open()
        core.mail.on_staged = Gathered(lambda: self.link.notify("staged"), STAGED_NOTICE_S)
        verifier = password_verifier(workers)
        self._sessions = LinkSessions(self.link, config, workers)
        gates = LinkGates(self.link, config, key, lambda: verifier.check_takes_s)
        outbox = worker_outbox(config, lambda message_id: self.link.notify("relay_queued", message_id))
        state = NodeState(
            gates.of,
            self._sessions,
            LinkMaildropLock(self.link),
            processes=workers,
            outbox=outbox,
            begin_search=LinkSearches(self.link).begin,
        )
        doors = self._doors = Doors(core, state, verifier)
        parts = Parts(core, gates, self._sessions, doors, outbox=outbox)
        self._calls |= {
            "decide": gates.decide,
            "reload": partial(_reload, parts),
            "end_entering": doors.end_entering,
            "give_back": self._sessions.give_back,
        }
        self._notices |= {
            "full": self._sessions.set_full,
            "granted": self._sessions.budgets.granted,
            "begin": self._sessions.budgets.begin,
            "stop_accepting": doors.stop_accepting,
            "resume_accepting": doors.resume_accepting,
            "goodbye": self._sessions.say_goodbye,
            "block": gates.absorb,
            "peers": gates.set_peers,
            "welcome": gates.welcome,
            "ahead": lambda is_ahead: doors.yield_to_others(is_ahead=is_ahead),
        }
        await doors.open(sockets)
        self._registry = Registry()
        add_core(self._registry, core)
        add_doors(self._registry, doors)
        add_outbox(self._registry, outbox)
        lag = LoopLag()
        core.workers.start("loop-lag", lag.run)
        self._registry.add(lambda: [("sora_event_loop_lag_seconds", (), lag.lags)])

    # --- what the control process asks ---

    async def _metrics(self) -> object:
        return plain_snapshot(self._registry.snapshot())

    async def _counts(self) -> object:
        assert self._doors is not None
        return {each.server.name: (len(each.live), each.refused) for each in self._doors.listeners}

    async def _figures(self, session_ids: list[str]) -> object:
        return self._sessions.figures(session_ids)


async def _reload(parts: Parts, pickled: bytes) -> None:
    orders: Orders = pickle.loads(pickled)  # noqa: S301  # from our own control process, too
    try:
        put_in_force(orders.config, parts)
    except (ReloadRefused, CertificateUnusable) as error:
        raise LinkFault(str(error)) from error


async def serve(ours: socket.socket) -> int:
    return await WorkerProcess().run(ours)


def main(ours: socket.socket) -> NoReturn:
    ours.setblocking(False)
    try:
        import uvloop
    except ImportError:
        sys.exit(asyncio.run(serve(ours)))
    sys.exit(uvloop.run(serve(ours)))
