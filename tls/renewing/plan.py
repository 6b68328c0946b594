"""What is to be kept up to date, and by which rules. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from storage.leases import Attempts

from ..ports import CaSettings, Generation
from ..wanted import Wanted


@dataclass(frozen=True, slots=True)
class Plan:
    """``cas`` in the order in which they are asked, at least one. ``digest``: of all that a CA may refuse for
    good; when it changes, such refusals end. ``sync_interval_s`` 0: the bucket is read at events only."""

    wanted: tuple[Wanted, ...]
    cas: tuple[CaSettings, ...]
    use_dns: bool = False
    renew_before_s: float = 720 * 3600.0
    sync_interval_s: float = 300.0
    uses_renewal_info: bool = True
    digest: str = ""

    def find(self, wanted_id: str) -> Wanted | None:
        return next((each for each in self.wanted if each.id == wanted_id), None)

    def ca(self, directory: str) -> CaSettings | None:
        return next((each for each in self.cas if each.directory == directory), None)

    def suggested(self, known: Attempts, issued_at: datetime) -> datetime | None:
        """The moment that was picked in the CA's window for the certificate that was issued then. A row may
        be of the one before, as in a database that was restored."""
        is_of_this = known.renew_checked_at is not None and known.renew_checked_at >= issued_at
        return known.renew_at if self.uses_renewal_info and is_of_this else None

    def lacking(self, generation: Generation) -> tuple[str, ...]:
        """Names that are asked for and that it is not for."""
        wanted = self.find(generation.wanted_id)
        if wanted is None or not generation.names:
            return ()
        return tuple(name for name in wanted.names if name not in generation.names)

    def for_name(self, name: str) -> tuple[Wanted, ...]:
        """Those that have a folded name, or the wildcard that stands for it."""
        wildcard = f"*.{name.partition('.')[2]}"
        return tuple(each for each in self.wanted if name in each.names or wildcard in each.names)
