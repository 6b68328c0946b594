"""What the node consists of and how each part does: a pure model, fed by checks (``checks.py``).

The whole is *down* when a critical component is, which means that this node cannot serve; it is *degraded*
when any other trouble is known. A part that all nodes share and that can wait (the object store, while
staging takes the mail) is not critical: taking every node out of service would turn a delay into an outage.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


class State(enum.IntEnum):
    OK = 0
    DEGRADED = 1
    DOWN = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``detail`` is a sentence for the operator; it holds no secret."""

    state: State
    detail: str = ""


OK = Finding(State.OK)


def worst(findings: Iterable[Finding]) -> Finding:
    """The worst state, with the details of all that are not well."""
    found = list(findings)
    state = max((finding.state for finding in found), default=State.OK)
    details = [finding.detail for finding in found if finding.state or state is State.OK]
    return Finding(state, "; ".join(filter(None, details)))


@dataclass(slots=True)
class Component:
    """One part, and what is known of it. Times are monotonic seconds."""

    name: str
    is_critical: bool
    finding: Finding = field(default=Finding(State.DEGRADED, "not checked yet"))
    since: float = 0.0  # of the present state
    checked: float | None = None

    def record(self, finding: Finding, now: float) -> bool:
        """Take a finding in; whether that is news: trouble, or its end."""
        is_first = self.checked is None
        has_changed = is_first or finding.state is not self.finding.state
        if has_changed:
            self.since = now
        self.finding, self.checked = finding, now
        return has_changed and not (is_first and finding.state is State.OK)


class Board:
    """All components of the node."""

    def __init__(self) -> None:
        self._components: dict[str, Component] = {}

    def add(self, name: str, *, is_critical: bool) -> Component:
        component = self._components[name] = Component(name, is_critical)
        return component

    def remove(self, name: str) -> None:
        """Idempotent."""
        self._components.pop(name, None)

    def __iter__(self) -> Iterator[Component]:
        return iter(self._components.values())

    @property
    def state(self) -> State:
        """Of the whole."""
        worst_critical = max((each.finding.state for each in self if each.is_critical), default=State.OK)
        worst_other = max((each.finding.state for each in self if not each.is_critical), default=State.OK)
        return max(worst_critical, min(worst_other, State.DEGRADED))

    def report(self, now: float, wall: datetime) -> dict[str, Any]:
        """For JSON. ``wall`` is the aware time at ``now``."""
        return {
            "status": self.state.word,
            "time": _stamp(wall),
            "components": [_line(each, now, wall) for each in self],
        }


def _line(component: Component, now: float, wall: datetime) -> dict[str, Any]:
    checked = component.checked
    return {
        "name": component.name,
        "critical": component.is_critical,
        "status": component.finding.state.word,
        "detail": component.finding.detail,
        "since": None if checked is None else _stamp(wall - timedelta(seconds=now - component.since)),
        "checked": None if checked is None else _stamp(wall - timedelta(seconds=now - checked)),
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
