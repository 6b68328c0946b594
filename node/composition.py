"""What a node is made of, whatever number of processes it has, and the order in which that lives.

Start order: what is depended on first. Stop order: the reverse, each step with a deadline. A start that fails
half-way stops what had been started. ``app`` and ``controlprocess`` add what serves the clients.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

from storage.errors import AlreadyExists

from .applying import Parts, put_in_force
from .background import Background, EmbeddedServers, apply_migrations
from .challengepart import ChallengePart
from .clustering.part import ClusterPart
from .clustering.service import Parts as ClusterParts
from .control import ControlServer, ControlUnusable, Handler, control_path
from .controlblocks import block_commands
from .controlconnections import connection_commands, kick_for_others
from .controlfeed import feed_commands
from .core import Core
from .doors import protocol_servers
from .drain import ready, unready
from .footing import plain_footing
from .metrics.sources import add_background, add_core, add_node_state
from .monitoring import Monitoring, open_metrics_servers
from .passwords import hash_password
from .relaying import RelayPart
from .renewal.part import RenewalPart
from .startfaults import START_FAULTS, StartFailed
from .status import ListenerStatus, StatusCommand

if TYPE_CHECKING:
    from collections.abc import Collection

    from .certificates import Shown
    from .config import Config
    from .doors import Doors
    from .footing import Footing
    from .loginguard import Guards
    from .metrics.family import Snapshot
    from .metrics.server import MetricsServer
    from .searches import Searches
    from .sessions import Sessions

log = logging.getLogger("sora.node")


class Front(Protocol):
    """What serves clients: the doors of this process, or the workers that have them."""

    def stop_accepting(self, turned_away: Collection[str]) -> None: ...

    async def end_entering(self) -> None: ...

    def resume_accepting(self) -> None: ...

    def hurry(self) -> None: ...


class Composition(ABC):
    """A node, as who started it sees it. ``processes`` share its connections to the database."""

    doors: Doors | None = None  # None: the workers have them

    def __init__(self, config: Config, footing: Footing | None, *, processes: int = 1) -> None:
        self.config = config
        self.exit_stack = AsyncExitStack()
        footing = footing or plain_footing(config)
        self.sockets = footing.sockets
        self.core = Core(config, self.exit_stack, processes=processes, certificates=footing.certificates)
        self.cluster = ClusterPart(config)
        self.challenges = ChallengePart(config, self.sockets)
        self.renewal = RenewalPart(config)
        self.relay = RelayPart(config)
        self.metrics_servers: list[MetricsServer] = []
        self.commands: dict[str, Handler] = {}  # more of the control socket, for who started it

    # --- what the two kinds have each in its own way ---

    @property
    @abstractmethod
    def guards(self) -> Guards: ...

    @property
    @abstractmethod
    def sessions(self) -> Sessions:
        """Of all processes of this node."""

    @property
    @abstractmethod
    def searches(self) -> Searches: ...

    @property
    @abstractmethod
    def front(self) -> Front: ...

    @abstractmethod
    def _listen_to_front(self) -> None:
        """What processes that serve clients have to say goes to renewal and uploader."""

    @abstractmethod
    async def _open_front(self) -> None:
        """Serving when it returns."""

    @abstractmethod
    def _watch_front(self) -> None:
        """Its figures and checks to ``monitoring``."""

    @abstractmethod
    async def _snapshots(self) -> dict[str, Snapshot]:
        """Figures by process."""

    @abstractmethod
    async def _listener_status(self) -> list[ListenerStatus]: ...

    @abstractmethod
    def addresses(self) -> dict[str, str]:
        """Server name to the address that was really bound."""

    @abstractmethod
    async def shown_certificates(self) -> dict[str, list[Shown]]:
        """What each process shows, by its name; a process that does not answer is left out."""

    def _cluster_parts(self) -> ClusterParts:
        return ClusterParts(
            guards=self.guards,
            sessions=self.sessions,
            feed=self.core.feed,
            listeners=self._listener_status,
            kick=kick_for_others(self.sessions),
        )

    def _processes(self) -> list[dict[str, object]]:
        """Workers, for the status."""
        return []

    async def _refresh(self) -> None:
        """Bring the figures of connections in other processes up to date."""
        return

    async def _obey(self) -> list[str]:
        """The new ``config`` to other processes; what the operator has to know of it."""
        return []

    # --- life ---

    async def start(self) -> None:
        """Serving when it returns. Raises StartFailed."""
        try:
            await self._start()
        except START_FAULTS as error:
            raise StartFailed(str(error)) from error

    async def stop(self) -> None:
        """Stop accepting, say goodbye, finish what runs, then let go of the stores. Idempotent."""
        await self.exit_stack.aclose()

    def hurry(self) -> None:
        """Cut off running commands of a stop that is under way."""
        self.front.hurry()

    async def _start(self) -> None:
        core, exit_stack = self.core, self.exit_stack
        exit_stack.callback(self.sockets.close)
        self.sockets.bind()
        await EmbeddedServers(self.config, exit_stack).start()
        await apply_migrations(core)
        await self.relay.open(exit_stack)  # let go of after the workers have stopped
        await core.open()
        self.background = Background(core)
        self.background.cleaner.is_our_turn = lambda: self.cluster.leads
        self._listen_to_front()
        await self.background.start()
        self.relay.start(core)
        core.workers.start("rate limits", self.guards.run)
        await self.cluster.open(self._cluster_parts(), exit_stack)
        await self.challenges.open(exit_stack)
        await self.renewal.open(core, self.cluster, self.challenges, exit_stack)
        await self._open_front()
        await self._start_monitoring()
        self.cluster.start(core.workers, exit_stack)
        self.renewal.start(core.workers)
        await self._open_control()

    async def _start_monitoring(self) -> None:
        self.monitoring = Monitoring(self.core, self._snapshots)
        registry = self.monitoring.registry
        add_core(registry, self.core)
        add_background(registry, self.background)
        add_node_state(registry, self.guards, self.sessions)
        self._watch_front()
        self.cluster.monitor(self.monitoring)
        self.challenges.monitor(self.monitoring)
        self.renewal.monitor(self.monitoring)
        self.relay.monitor(self.monitoring)
        self.monitoring.start()
        self.metrics_servers = await open_metrics_servers(self.core, self.monitoring, self.sockets)

    def _commands(self) -> dict[str, Handler]:
        status = StatusCommand(
            self._listener_status,
            self.guards,
            self.core.uploads.staging_level,
            time.monotonic,
            self._processes,
            self.cluster.summary,
        )
        return {
            **status.table(),
            **block_commands(self.guards),
            **connection_commands(self.sessions, time.time, self._refresh, lambda: self.cluster.others),
            **self.cluster.commands(),
            **self.renewal.commands(),
            **self.relay.commands(),
            **self.monitoring.commands(),
            **feed_commands(lambda: self.core.feed),
            **self.commands,
        }

    async def _open_control(self) -> None:
        control = ControlServer(control_path(self.config), self._commands())
        try:
            await control.open()
        except ControlUnusable as error:
            log.error("sora-admin cannot talk to this node: %s", error)  # mail matters more
            return
        self.exit_stack.push_async_callback(control.close)

    # --- for who started it ---

    async def reload(self, config: Config) -> list[str]:
        """Put what is ``reload.RELOADABLE`` in force, and name what failed all the same. Raises
        ReloadRefused, having changed nothing."""
        parts = Parts(
            core=self.core,
            guards=self.guards,
            sessions=self.sessions,
            doors=self.doors,
            metrics_servers=self.metrics_servers,
            background=self.background,
            outbox=self.relay.outbox,
            searches=self.searches,
        )
        swap_relay = self.relay.prepare(config)
        troubles = put_in_force(config, parts)
        self.config = config
        swap_relay()
        self.challenges.obey(config)
        self.renewal.reload(config)
        troubles += await self._obey()
        return troubles + await self.cluster.reload(config)

    async def stop_accepting(self) -> None:
        """Sessions stay. Idempotent."""
        unready(self.monitoring.checker)
        self.front.stop_accepting(self.sockets.handed_names())
        self.sockets.shut(protocol_servers(self.config))
        await self.front.end_entering()
        await self.cluster.hand_over()

    async def resume_accepting(self) -> None:
        """Undo ``stop_accepting``. Raises ListenFailed, with everything as it was."""
        self.sockets.reopen(protocol_servers(self.config))
        self.front.resume_accepting()
        await self.cluster.resume()
        ready(self.monitoring.checker)

    def session_count(self) -> int:
        return len(self.sessions)

    async def ensure_account(self, address: str, password: str) -> None:
        """Create the account when it is not there yet."""
        hashed = await asyncio.to_thread(hash_password, password.encode())
        try:
            await self.core.accounts.create_account(address, hashed)
        except AlreadyExists:
            return
        log.info("account %s created", address)
