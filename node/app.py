"""The composition root of a node in one process: core, background and doors together.

Start order: what is depended on first. Stop order: the reverse, each step with a deadline. A start that fails
half-way stops what had been started. ``controlprocess`` composes the same parts for a node of several
processes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from protocols.pop3.maildrop import LocalMaildropLock
from storage.errors import AlreadyExists
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.uploads import PostgresUploadStore

from .applying import Parts, put_in_force
from .background import Background, EmbeddedServers, apply_migrations
from .certificates import Certificates, Shown
from .challengepart import ChallengePart
from .clustering.part import ClusterPart
from .clustering.service import Parts as ClusterParts
from .control import ControlServer, ControlUnusable, Handler, control_path
from .controlblocks import block_commands
from .controlconnections import connection_commands, kick_for_others
from .core import Core
from .doors import Doors, password_verifier, protocol_servers
from .drain import ready, unready
from .footing import Footing, plain_footing
from .listeners import Listener
from .loginguard import Guards
from .metrics.family import Snapshot
from .metrics.sources import add_background, add_core, add_doors, add_node_state
from .monitoring import Monitoring, open_metrics_servers
from .passwords import hash_password
from .relaying import RelayPart
from .renewal.part import RenewalPart
from .sessions import Sessions
from .shared import NodeState
from .startfaults import START_FAULTS, StartFailed
from .status import ListenerStatus, StatusCommand

if TYPE_CHECKING:
    from .config import Config
    from .metrics.server import MetricsServer

log = logging.getLogger("sora.node")

THIS_PROCESS = "main"


class Node:
    """One node in one process."""

    def __init__(self, config: Config, footing: Footing | None = None) -> None:
        self.config = config
        self._exit = AsyncExitStack()
        footing = footing or plain_footing(config)
        self.sockets = footing.sockets
        self.sessions = Sessions(config.trusted_networks)
        self.core = Core(config, self._exit, certificates=footing.certificates)
        self.verifier = password_verifier(1)
        self.guards = Guards(config, check_takes_s=lambda: self.verifier.check_takes_s)
        self.relay = RelayPart(config)
        state = NodeState(
            self.guards.of,
            self.sessions,
            LocalMaildropLock(),
            self.guards.close,
            outbox=self.relay.outbox,
        )
        self.doors = Doors(self.core, state, self.verifier)
        self.cluster = ClusterPart(config)
        self.challenges = ChallengePart(config, self.sockets)
        self.renewal = RenewalPart(config)
        self.metrics_servers: list[MetricsServer] = []
        self.commands: dict[str, Handler] = {}  # more of the control socket, for who started it

    # --- life ---

    async def start(self) -> None:
        """Serving when it returns. Raises StartFailed."""
        try:
            await self._start()
        except START_FAULTS as error:
            raise StartFailed(str(error)) from error

    async def stop(self) -> None:
        """Stop accepting, say goodbye, finish what runs, then let go of the stores. Idempotent."""
        await self._exit.aclose()

    def hurry(self) -> None:
        """Cut off running commands of a stop that is under way."""
        self.doors.hurry()

    async def _start(self) -> None:
        core = self.core
        self._exit.callback(self.sockets.close)
        self.sockets.bind()
        await EmbeddedServers(self.config, self._exit).start()
        await apply_migrations(core)
        await self.relay.open(self._exit)  # let go of after the workers have stopped
        await core.open()
        self.background = Background(core)
        core.certificates.served.demand.wanted = self.renewal.client_waits
        core.mail.on_staged = self.background.uploader.notify
        await self.background.start()
        self.relay.start(core)
        core.workers.start("rate limits", self.guards.run)
        await self._open_cluster()
        await self.challenges.open(self._exit)
        await self.renewal.open(core, self.cluster, self.challenges, self._exit)
        servers = protocol_servers(self.config)
        await self.doors.open(self.sockets.listen(servers, core.certificates))
        await self._start_monitoring()
        self.cluster.start(core.workers, self._exit)
        self.renewal.start(core.workers)
        await open_control(self.config, self._commands(), self._exit)

    async def _open_cluster(self) -> None:
        parts = ClusterParts(
            guards=self.guards,
            sessions=self.sessions,
            feed=self.core.feed,
            listeners=self._listener_status,
            kick=kick_for_others(self.sessions),
        )
        await self.cluster.open(parts, self._exit)

    async def _start_monitoring(self) -> None:
        self.monitoring = Monitoring(self.core, self._snapshots)
        registry = self.monitoring.registry
        add_core(registry, self.core)
        add_background(registry, self.background)
        add_node_state(registry, self.guards, self.sessions)
        add_doors(registry, self.doors)
        self.cluster.monitor(self.monitoring)
        self.challenges.monitor(self.monitoring)
        self.renewal.monitor(self.monitoring)
        self.relay.monitor(self.monitoring)
        self.monitoring.start()
        self.metrics_servers = await open_metrics_servers(self.core, self.monitoring, self.sockets)

    async def _snapshots(self) -> dict[str, Snapshot]:
        return {THIS_PROCESS: self.monitoring.registry.snapshot()}

    def _commands(self) -> dict[str, Handler]:
        status = StatusCommand(
            self._listener_status,
            self.guards,
            self.uploads.staging_level,
            time.monotonic,
            cluster=self.cluster.summary,
        )
        return {
            **status.table(),
            **block_commands(self.guards),
            **connection_commands(self.sessions, time.time, others=lambda: self.cluster.others),
            **self.cluster.commands(),
            **self.renewal.commands(),
            **self.relay.commands(),
            **self.monitoring.commands(),
            **self.commands,
        }

    async def _listener_status(self) -> list[ListenerStatus]:
        return [
            ListenerStatus(each.server.name, each.server.type, each.address, len(each.live), each.refused)
            for each in self.listeners
        ]

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
        )
        troubles = put_in_force(config, parts)
        self.config = config
        self.challenges.obey(config)
        self.renewal.reload(config)
        return [*troubles, *await self.cluster.reload(config)]

    async def stop_accepting(self) -> None:
        """Sessions stay. Idempotent."""
        unready(self.monitoring.checker)
        self.doors.stop_accepting(self.sockets.handed_names())
        self.sockets.shut(protocol_servers(self.config))
        await self.doors.end_entering()
        await self.cluster.hand_over()

    async def resume_accepting(self) -> None:
        """Undo ``stop_accepting``. Raises ListenFailed, with everything as it was."""
        self.sockets.reopen(protocol_servers(self.config))
        self.doors.resume_accepting()
        await self.cluster.resume()
        ready(self.monitoring.checker)

    def session_count(self) -> int:
        return len(self.sessions)

    async def ensure_account(self, address: str, password: str) -> None:
        """Create the account when it is not there yet."""
        await ensure_account(self.core.accounts, address, password)

    def addresses(self) -> dict[str, str]:
        """Server name to the address that was really bound."""
        bound: list[Listener | MetricsServer] = [*self.listeners, *self.metrics_servers]
        return {each.server.name: each.address for each in bound}

    @property
    def listeners(self) -> list[Listener]:
        return self.doors.listeners

    @property
    def uploads(self) -> PostgresUploadStore:
        return self.core.uploads

    async def shown_certificates(self) -> dict[str, list[Shown]]:
        """What each process shows, by its name."""
        return {THIS_PROCESS: list(self.certificates)}

    @property
    def certificates(self) -> Certificates:
        return self.core.certificates


async def ensure_account(accounts: PostgresAccountStore, address: str, password: str) -> None:
    """Create the account when it is not there yet."""
    try:
        await accounts.create_account(address, await asyncio.to_thread(hash_password, password.encode()))
    except AlreadyExists:
        return
    log.info("account %s created", address)


async def open_control(config: Config, commands: dict[str, Handler], exit_stack: AsyncExitStack) -> None:
    control = ControlServer(control_path(config), commands)
    try:
        await control.open()
    except ControlUnusable as error:
        log.error("sora-admin cannot talk to this node: %s", error)  # mail matters more
        return
    exit_stack.push_async_callback(control.close)
