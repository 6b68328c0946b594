"""What each node says of itself: version, load, a hash for each section of its configuration.

Topics are entries of their own, so that what changes often is small.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cluster.facts import DAY_S, Kind

from .wire import Unreadable, pack, unpack

if TYPE_CHECKING:
    from cluster.effects import FactChanged

    from .gossip import Gossip

log = logging.getLogger("sora.cluster")

NODE: Final = b"node"
LOAD: Final = b"load"
CONFIG: Final = b"config"
LOAD_EVERY_S: Final = 5.0
LOAD_TTL_S: Final = 60.0
MAX_OTHERS: Final = 10_000
SERVING, DRAINING = "serving", "draining"


@dataclass(frozen=True, slots=True)
class Load:
    """``connections`` and ``sessions`` by protocol."""

    state: str = SERVING
    connections: Mapping[str, int] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    blocks: int = 0


@dataclass(slots=True)
class About:
    """One node. What it has not said is empty."""

    version: str = ""
    started: float = 0.0  # seconds of the epoch, by its clock
    load: Load | None = None
    config_key: bytes = b""
    sections: dict[str, bytes] = field(default_factory=dict)


class Abouts:
    """This node's, which is told, and the others'. ``wall_clock``: of what is told."""

    def __init__(self, gossip: Gossip, wall_clock: Callable[[], float], *, version: str) -> None:
        self._gossip = gossip
        self.own = About(version=version, started=wall_clock())
        self._others: dict[str, About] = {}
        self.unreadable = 0

    def of(self, name: str) -> About | None:
        return self.own if name == self._gossip.name else self._others.get(name)

    # --- ours ---

    def tell(self) -> None:
        """All that stays; to be said again well within a day."""
        own = self.own
        entries = {NODE: pack([own.version, own.started])}
        if own.sections:
            entries[CONFIG] = pack([own.config_key, own.sections])
        self._gossip.put(Kind.NODE, entries, DAY_S)

    def tell_load(self, load: Load) -> None:
        self.own.load = load
        plain = [load.state, dict(load.connections), dict(load.sessions), load.blocks]
        self._gossip.put(Kind.NODE, {LOAD: pack(plain)}, LOAD_TTL_S)

    # --- theirs ---

    def heard(self, fact: FactChanged) -> None:
        about = self._others.setdefault(fact.origin, About())
        if len(self._others) > MAX_OTHERS:  # of names that are no members, which nobody forgets
            del self._others[next(iter(self._others))]
        try:
            _READERS.get(fact.key, _read_unknown)(about, fact.value)
        except Unreadable as error:
            self.unreadable += 1
            log.debug("what %s says of itself cannot be read: %s", fact.origin, error)

    def forget(self, name: str) -> None:
        """It is no member any more."""
        self._others.pop(name, None)


def _read_unknown(_about: About, _value: bytes | None) -> None:
    """A topic of a later version."""


def _read_node(about: About, value: bytes | None) -> None:
    if value is None:  # the node is away: what it was is worth knowing until it is forgotten
        return
    match unpack(value):
        case [str() as version, int() | float() as started]:
            about.version, about.started = version, float(started)
            return
    raise Unreadable("unknown form")


def _read_load(about: About, value: bytes | None) -> None:
    if value is None:
        about.load = None
        return
    match unpack(value):
        case [str() as state, dict() as connections, dict() as sessions, int() as blocks]:
            about.load = Load(state, _counts(connections), _counts(sessions), blocks)
            return
    raise Unreadable("unknown form")


def _read_config(about: About, value: bytes | None) -> None:
    if value is None:
        about.config_key, about.sections = b"", {}
        return
    match unpack(value):
        case [bytes() as key, dict() as sections]:
            about.config_key = key
            about.sections = {
                name: digest
                for name, digest in sections.items()
                if isinstance(name, str) and isinstance(digest, bytes)
            }
            return
    raise Unreadable("unknown form")


def _counts(plain: Mapping[object, object]) -> dict[str, int]:
    return {name: count for name, count in plain.items() if isinstance(name, str) and isinstance(count, int)}


_READERS: Final[dict[bytes, Callable[[About, bytes | None], None]]] = {
    NODE: _read_node,
    LOAD: _read_load,
    CONFIG: _read_config,
}
