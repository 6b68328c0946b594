"""What a server of this protocol works on."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.scripts import ScriptQuota, ScriptStore

from .compiler import ScriptCompiler


@dataclass(frozen=True, slots=True)
class ScriptService:
    """Scripts, the engine that judges them, and what one account may have."""

    store: ScriptStore
    compiler: ScriptCompiler
    quota: ScriptQuota = field(default_factory=ScriptQuota)
