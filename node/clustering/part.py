"""The cluster as a part of a node, whatever processes that has: opened, drained, left, shown.

A node that is configured for none has the part, too: it does nothing, and says so when asked.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from cluster.messages import State as MemberState
from node.controlconnections import rows_for_others
from node.health import Finding, State

from . import report
from .commands import cluster_commands
from .health import Seen, judge_cluster
from .others import OtherNodes
from .readings import read_cluster

if TYPE_CHECKING:
    from node.config import Config
    from node.control import Handler
    from node.monitoring import Monitoring
    from node.workers import Workers

    from .service import Clustering, Parts


class ClusterPart:
    """``clustering`` is None before ``open``, and in a node that is in no cluster."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.clustering: Clustering | None = None
        self.others: OtherNodes | None = None

    async def open(self, parts: Parts, exit_stack: AsyncExitStack) -> None:
        """Before the doors, so that they know who is blocked. Raises ClusterUnusable."""
        if not self._config.cluster.enabled:
            return
        from .engine import real_engine  # a node without a cluster does not need it
        from .life import open_cluster

        self.clustering = await open_cluster(self._config, parts, exit_stack, real_engine)
        self.others = OtherNodes(self.clustering, rows_for_others(parts.sessions))

    def start(self, workers: Workers, exit_stack: AsyncExitStack) -> None:
        """After the doors: what is due by the clock, and the lead is handed over before they close."""
        if self.clustering is not None:
            workers.start("cluster", self.clustering.run)
            exit_stack.push_async_callback(self.clustering.hand_over)

    def monitor(self, monitoring: Monitoring) -> None:
        clustering = self.clustering
        if clustering is not None:
            monitoring.registry.add(lambda: read_cluster(clustering))
            monitoring.checker.add("cluster", self._check)
            clustering.is_able = lambda: monitoring.board.state is not State.DOWN

    async def reload(self, config: Config) -> list[str]:
        """What failed."""
        self._config = config
        return [] if self.clustering is None else await self.clustering.reload(config)

    async def hand_over(self) -> None:
        """The node drains. Idempotent."""
        if self.clustering is not None:
            await self.clustering.hand_over()

    async def resume(self) -> None:
        """It does no longer. Idempotent."""
        if self.clustering is not None:
            await self.clustering.resume()

    @property
    def leads(self) -> bool:
        """This node does what one node is to do for all; so does one that is in no cluster."""
        if not self._config.cluster.enabled:
            return True
        return self.clustering is not None and self.clustering.leadership.is_ours

    async def summary(self) -> dict[str, Any] | None:
        """For ``status``."""
        return None if self.clustering is None else await report.summary(self.clustering)

    def commands(self) -> dict[str, Handler]:
        return cluster_commands(lambda: self.clustering)

    async def _check(self) -> Finding:
        clustering = self.clustering
        assert clustering is not None
        trouble = await report.refreshed(clustering)
        roster = clustering.roster
        return judge_cluster(
            Seen(
                alive=len(roster.alive),
                failed=[each.name for each in roster if each.state is MemberState.DEAD],
                is_full=roster.is_full,
                has_peers=bool(clustering.config.cluster.other_peers),
                has_left=clustering.has_left,
                conflict=clustering.conflict.name if clustering.conflict else "",
                trouble=trouble,
                leader=clustering.leadership.leader,
                age_s=clustering.clock() - clustering.started,
            )
        )
