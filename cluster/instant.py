"""The two clocks of a node, as an argument."""

from __future__ import annotations

from typing import NamedTuple


class Instant(NamedTuple):
    """``now``: monotonic seconds, for every timer and deadline; ``wall``: seconds of the epoch, which may
    jump, for what people read and for ordering what different nodes wrote."""

    now: float
    wall: float
