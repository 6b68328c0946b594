"""What orders are made with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from storage.leases import Leases

from ..acme.dns01 import DnsProvider
from ..ports import Authority, CaSettings
from .answers import Answers
from .company import Company
from .figures import Figures
from .memory import LastingRecord
from .shelf import MirroredVault, Shelf

# Names, and a probe that all nodes answer as they do a challenge; remarks for the operator.
Preflight = Callable[[Sequence[str], str, str], Awaitable[Sequence[str]]]


@dataclass(slots=True)
class Tools:
    """``authority``: makes one for a CA. ``clock``: monotonic. ``chance``: in
    [0, 1)."""

    leases: Leases
    record: LastingRecord
    vault: MirroredVault
    shelf: Shelf
    answers: Answers
    company: Company
    authority: Callable[[CaSettings], Authority]
    now: Callable[[], datetime]
    clock: Callable[[], float]
    chance: Callable[[], float]
    preflight: Preflight
    dns: DnsProvider | None = None
    figures: Figures = field(default_factory=Figures)
