"""Network coordinates: where nodes would lie if round trips were distances, what ``serf rtt`` tells.

Theory: Vivaldi. Every measured round trip pulls or pushes our own point like a spring; points in 8 dimensions
plus a height, the cost of a node's own access link. An adjustment, the mean of the last errors, corrects what
the geometry cannot.
Nodes of Sora spare each other the 130 bytes of a coordinate in every ack, so only agents move our point.

References: Vivaldi (Dabek, Cox, Kaashoek, Morris 2004); Ledlie, Gardner, Seltzer (2007) for gravity.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..dialect import malformed, pack, unpack_map
from ..errors import PacketRejected, Reason

if TYPE_CHECKING:
    import random

DIMENSIONS: Final = 8
MAX_ROUND_TRIP_S: Final = 10.0  # what takes longer measures a stall, not a distance
_MAX_ERROR: Final = 1.5
_MIN_HEIGHT: Final = 10e-6
_ERROR_WEIGHT: Final = 0.25
_MOVE_WEIGHT: Final = 0.25
_ADJUSTMENT_WINDOW: Final = 20
_GRAVITY_RHO: Final = 150.0
_NOTHING: Final = 1e-6
_FAR: Final = 1e6
_ORIGIN_VECTOR: Final = (0.0,) * DIMENSIONS

COORDINATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Seconds, but for ``error``, which is relative."""

    vector: tuple[float, ...] = _ORIGIN_VECTOR
    error: float = _MAX_ERROR
    adjustment: float = 0.0
    height: float = _MIN_HEIGHT

    def distance_s(self, other: Coordinate) -> float:
        """The estimated round trip."""
        raw = self.raw_distance_s(other)
        adjusted = raw + self.adjustment + other.adjustment
        return adjusted if adjusted > 0.0 else raw

    def raw_distance_s(self, other: Coordinate) -> float:
        return math.dist(self.vector, other.vector) + self.height + other.height


ORIGIN: Final = Coordinate()


def encode_coordinate(at: Coordinate) -> bytes:
    """As the payload of an ack."""
    fields = {
        "Adjustment": at.adjustment,
        "Error": at.error,
        "Height": at.height,
        "Vec": list(at.vector),
    }
    return b"\x01" + pack(fields)


def decode_coordinate(payload: bytes) -> Coordinate:
    """Raises PacketRejected also for other dimensions and for numbers that are none."""
    if not payload or payload[0] != COORDINATE_VERSION:
        raise PacketRejected(Reason.UNKNOWN_TYPE, "coordinate")
    fields = unpack_map(payload[1:])
    raw = fields.get(b"Vec")
    vector = tuple(map(_number, raw)) if type(raw) is tuple else ()
    found = Coordinate(
        vector, *(_number(fields.get(key, 0.0)) for key in (b"Error", b"Adjustment", b"Height"))
    )
    if len(vector) != DIMENSIONS:
        raise malformed(f"{len(vector)} dimensions")
    return found


def _number(value: object) -> float:
    if not isinstance(value, float | int) or not math.isfinite(value) or abs(value) > _FAR:
        raise malformed("not a number of seconds")
    return float(value)


class Vivaldi:
    """Our own point. ``hear`` costs a few microseconds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._misses: deque[float] = deque([0.0] * _ADJUSTMENT_WINDOW, maxlen=_ADJUSTMENT_WINDOW)
        self.here = ORIGIN

    def hear(self, other: Coordinate, round_trip_s: float) -> None:
        """A member at ``other`` answered after ``round_trip_s``."""
        if not 0.0 <= round_trip_s <= MAX_ROUND_TRIP_S:
            return
        moved = self._spring(other, max(round_trip_s, _NOTHING))
        self._misses.append(round_trip_s - moved.raw_distance_s(other))
        adjustment = sum(self._misses) / (2.0 * _ADJUSTMENT_WINDOW)
        pulled = self._gravity(moved)
        self.here = Coordinate(pulled.vector, pulled.error, adjustment, pulled.height)
        numbers = (*pulled.vector, pulled.error, adjustment, pulled.height)
        if not all(abs(n) < _FAR for n in numbers):  # not for NaN either
            self.here = ORIGIN

    def _spring(self, other: Coordinate, round_trip_s: float) -> Coordinate:
        here = self.here
        wrongness = abs(here.distance_s(other) - round_trip_s) / round_trip_s
        weight = here.error / max(here.error + other.error, _NOTHING)
        error = _ERROR_WEIGHT * weight * wrongness + here.error * (1.0 - _ERROR_WEIGHT * weight)
        force = _MOVE_WEIGHT * weight * (round_trip_s - here.distance_s(other))
        return self._push(
            Coordinate(here.vector, min(error, _MAX_ERROR), here.adjustment, here.height), force, other
        )

    def _gravity(self, here: Coordinate) -> Coordinate:
        """Towards the origin, lest the whole cloud of nodes drifts away."""
        return self._push(here, -((here.distance_s(ORIGIN) / _GRAVITY_RHO) ** 2), ORIGIN)

    def _push(self, here: Coordinate, force: float, other: Coordinate) -> Coordinate:
        away = [mine - theirs for mine, theirs in zip(here.vector, other.vector, strict=True)]
        length = math.hypot(*away)
        height = here.height
        if length > _NOTHING:
            unit = [part / length for part in away]
            height = max((here.height + other.height) * force / length + here.height, _MIN_HEIGHT)
        else:
            drawn = [self._rng.random() - 0.5 for _ in range(DIMENSIONS)]
            size = math.hypot(*drawn) or 1.0
            unit = [part / size for part in drawn]
        vector = tuple(mine + part * force for mine, part in zip(here.vector, unit, strict=True))
        return Coordinate(vector, here.error, here.adjustment, height)
