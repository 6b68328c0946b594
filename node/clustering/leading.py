"""Who leads, as this node sees it, and what is to be done when that begins or ends here.

Leading is a hint: it spares the cluster that every node does the same work. What must be done once only is
fenced in the database. Hooks are called on the loop, in the order they were added, and must not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cluster.messages import State

if TYPE_CHECKING:
    from cluster.effects import MemberView

    from .roster import Roster

log = logging.getLogger("sora.cluster")

SETTLED_S: Final = 10.0  # a member must have been there, before it leads
SORA_TAG: Final = "sora"
LEAD_TAG: Final = "lead"
NOT_ME: Final = "no"  # value of LEAD_TAG

Hook = Callable[[bool], None]


class Leadership:
    """``clock`` is monotonic, the same as that of the roster's members."""

    def __init__(self, own_name: str, roster: Roster, clock: Callable[[], float]) -> None:
        self._own_name = own_name
        self._roster = roster
        self._clock = clock
        self._hooks: list[Hook] = []
        self._has_resigned = False
        self.leader = ""
        self.since = clock()
        self.is_slow: Callable[[], bool] = lambda: False

    @property
    def is_ours(self) -> bool:
        return self.leader == self._own_name

    def add(self, hook: Hook) -> None:
        """Called with True when this node begins to lead, at once when it does, with False when that ends."""
        self._hooks.append(hook)
        if self.is_ours:
            hook(True)

    def resign(self) -> None:
        """This node leads nothing any more, whatever happens."""
        self._has_resigned = True
        self.review()

    def review(self) -> None:
        """After each change, and every second: time alone makes a member eligible."""
        eligible = [each.name for each in self._roster.alive if self._is_eligible(each)]
        leader = min(eligible, default="")
        if leader == self.leader:
            return
        was_ours, self.leader, self.since = self.is_ours, leader, self._clock()
        self._roster.note("leader", leader)
        log.info("%s leads the cluster", leader or "nobody")
        if was_ours != self.is_ours:
            for hook in self._hooks:
                hook(self.is_ours)

    def _is_eligible(self, member: MemberView) -> bool:
        if member.name == self._own_name and (self._has_resigned or self.is_slow()):
            return False
        return (
            member.state is State.ALIVE
            and not member.is_leaving
            and SORA_TAG in member.tags
            and member.tags.get(LEAD_TAG) != NOT_ME
            and self._clock() - member.joined >= SETTLED_S
        )
