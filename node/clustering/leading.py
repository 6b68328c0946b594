"""What is to be done when leading begins or ends at this node; who leads is ``cluster.leader``'s to say.

Leading is a hint: it spares the cluster that every node does the same work. What must be done once only is
fenced in the database. Hooks are called on the loop, in the order they were added, and must not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cluster import leader
from cluster.serf import tags

if TYPE_CHECKING:
    from .roster import Roster

log = logging.getLogger("sora.cluster")

SORA_TAG: Final = tags.SORA_TAG
SLOW_FOR_S: Final = 10.0  # of being well, before a node that was slow says that it is not

Hook = Callable[[bool], None]


class Leading:
    """``clock`` is monotonic, that of the roster's members. ``set_tags``: of this node, for the others."""

    def __init__(
        self,
        own_name: str,
        roster: Roster,
        clock: Callable[[], float],
        set_tags: Callable[[Mapping[str, str]], None],
        *,
        has_peers: bool,
    ) -> None:
        self._own_name = own_name
        self._roster = roster
        self._clock = clock
        self._set_tags = set_tags
        self._view = leader.Leadership(own_name, clock(), waits_for_peer=has_peers)
        self._hooks: list[Hook] = []
        self._has_resigned = False
        self._is_slow = False
        self._well_since = clock()
        self.since = clock()

    @property
    def leader(self) -> str:
        """Empty: nobody."""
        return "" if self._has_resigned and self._view.is_own else self._view.leader or ""

    @property
    def is_ours(self) -> bool:
        return self.leader == self._own_name

    def add(self, hook: Hook) -> None:
        """Called with True when this node begins to lead, at once when it does, with False when that ends."""
        self._hooks.append(hook)
        if self.is_ours:
            hook(True)

    def resign(self) -> None:
        """This node leads nothing any more. Idempotent."""
        if not self._has_resigned:
            was_ours, self._has_resigned = self.is_ours, True
            self._tell()
            if was_ours:
                self._ended_or_begun()

    def resume(self) -> None:
        """It may lead again."""
        if self._has_resigned:
            self._has_resigned = False
            self._tell()
            if self.is_ours:
                self._ended_or_begun()

    def feels(self, *, is_slow: bool) -> None:
        """Now and then: whether this node has reason to think that it is late, or cannot work. The others
        pass over it."""
        now = self._clock()
        if is_slow:
            self._well_since = now
        is_slow = is_slow or (self._is_slow and now - self._well_since < SLOW_FOR_S)
        if is_slow != self._is_slow:
            self._is_slow = is_slow
            self._tell()

    def retell(self) -> None:
        """The gossip has forgotten it."""
        self._tell()

    def _tell(self) -> None:
        tags = {leader.ELIGIBLE_TAG: "no"} if self._has_resigned else {}
        self._set_tags({**tags, leader.SLOW_TAG: "yes"} if self._is_slow else tags)

    def review(self) -> None:
        """After each change, and every second: time alone makes a member fit."""
        was_ours = self.is_ours
        changed = self._view.look(self._roster, self._clock())
        if changed is None:
            return
        self.since = self._clock()
        self._roster.note("leader", changed.leader or "", f"before: {changed.before or 'nobody'}")
        log.info("%s leads the cluster", changed.leader or "nobody")
        if was_ours != self.is_ours:
            self._ended_or_begun()

    def _ended_or_begun(self) -> None:
        for hook in self._hooks:
            hook(self.is_ours)
