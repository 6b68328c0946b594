"""What certificate work counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Figures:
    issued: Counter[str] = field(default_factory=Counter)  # by CA
    failures: Counter[str] = field(default_factory=Counter)  # by class
    deferred: int = 0  # to the holder of the lease
    resumed: int = 0  # orders of others, or of a life before, that were gone on with
    holds_lease: bool = False
