"""A node in one process: the doors are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.pop3.maildrop import LocalMaildropLock

from .composition import Composition
from .doors import Doors, password_verifier, protocol_servers
from .loginguard import Guards
from .metrics.sources import add_doors
from .searches import Searches
from .sessions import Sessions
from .shared import NodeState
from .status import ListenerStatus

if TYPE_CHECKING:
    from .certificates import Shown
    from .config import Config
    from .footing import Footing
    from .listeners import Listener
    from .metrics.family import Snapshot
    from .metrics.server import MetricsServer

THIS_PROCESS = "main"


class Node(Composition):
    """One node in one process."""

    doors: Doors

    def __init__(self, config: Config, footing: Footing | None = None) -> None:
        super().__init__(config, footing)
        self._sessions = Sessions(config.trusted_networks)
        self._searches = Searches(config)
        self.verifier = password_verifier(1)
        self._guards = Guards(config, check_takes_s=lambda: self.verifier.check_takes_s)
        state = NodeState(
            self.guards.of,
            self.sessions,
            LocalMaildropLock(),
            self.guards.close,
            outbox=self.relay.outbox,
            begin_search=self.searches.begin,
        )
        self.doors = Doors(self.core, state, self.verifier)

    @property
    def guards(self) -> Guards:
        return self._guards

    @property
    def sessions(self) -> Sessions:
        return self._sessions

    @property
    def searches(self) -> Searches:
        return self._searches

    @property
    def front(self) -> Doors:
        return self.doors

    @property
    def listeners(self) -> list[Listener]:
        return self.doors.listeners

    def _listen_to_front(self) -> None:
        self.core.certificates.served.demand.wanted = self.renewal.client_waits
        self.core.mail.on_staged = self.background.uploader.notify

    async def _open_front(self) -> None:
        servers = protocol_servers(self.config)
        await self.doors.open(self.sockets.listen(servers, self.core.certificates))

    def _watch_front(self) -> None:
        add_doors(self.monitoring.registry, self.doors)

    async def _snapshots(self) -> dict[str, Snapshot]:
        return {THIS_PROCESS: self.monitoring.registry.snapshot()}

    async def _listener_status(self) -> list[ListenerStatus]:
        return [
            ListenerStatus(each.server.name, each.server.type, each.address, len(each.live), each.refused)
            for each in self.listeners
        ]

    def addresses(self) -> dict[str, str]:
        bound: list[Listener | MetricsServer] = [*self.listeners, *self.metrics_servers]
        return {each.server.name: each.address for each in bound}

    async def shown_certificates(self) -> dict[str, list[Shown]]:
        return {THIS_PROCESS: list(self.core.certificates)}
