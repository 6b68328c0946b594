"""What this protocol needs of the Sieve engine. ``node`` hands it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a script: texts for its author, each of one or several lines."""

    errors: str = ""  # empty: it compiles
    warnings: str = ""


class ScriptCompiler(Protocol):
    """One configuration of the engine: what it accepts here is what runs at delivery."""

    @property
    def extensions(self) -> Sequence[str]:
        """What scripts may ``require``."""
        ...

    @property
    def notify_schemes(self) -> Sequence[str]:
        """URI schemes of the action notify; empty without the extension enotify."""
        ...

    @property
    def list_schemes(self) -> Sequence[str]:
        """URI schemes of lists that are kept elsewhere (RFC 6134 §2.8); empty where there are none."""
        ...

    @property
    def max_redirects(self) -> int | None:
        """Of one script for one message; None: no limit."""
        ...

    async def check(self, script: bytes) -> Verdict:
        """Whatever the octets are; never raises for them. A large script must not hold up other sessions."""
        ...
