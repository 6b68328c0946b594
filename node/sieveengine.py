"""The Sieve engine as ManageSieve asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from protocols.managesieve.compiler import Verdict
from protocols.sieve.budget import Limits
from protocols.sieve.compiling import compile
from protocols.sieve.errors import ScriptErrors

if TYPE_CHECKING:
    from .config import Server

# Larger scripts are compiled beside the loop, one at a time: 16 KB of the worst patterns take 0.3 s.
COMPILED_INLINE_BYTES: Final = 1024
# What these do is mail of our own; without a relay they would be promises.
SENDING: Final = frozenset({"vacation", "vacation-seconds", "enotify", "fcc"})


class SieveEngine:
    """``protocols.managesieve.compiler.ScriptCompiler`` with these extensions."""

    def __init__(self, extensions: Collection[str], *, sends: bool, has_lists: bool = False) -> None:
        self.extensions = tuple(sorted(extensions))
        self.notify_schemes = ("mailto",) if "enotify" in self.extensions else ()
        self.list_schemes = ("tag",) if has_lists and "extlists" in self.extensions else ()
        self.max_redirects: int | None = Limits().redirects if sends else 0
        self._turn = asyncio.Lock()

    async def check(self, script: bytes) -> Verdict:
        if len(script) <= COMPILED_INLINE_BYTES:
            return self._check(script)
        async with self._turn:
            return await asyncio.to_thread(self._check, script)

    def _check(self, script: bytes) -> Verdict:
        found = compile(script, extensions=self.extensions)
        if isinstance(found, ScriptErrors):
            return Verdict(errors=str(found))
        return Verdict(warnings="\n".join(found.warnings))


def sieve_engine(
    allowed: frozenset[str], server: Server, *, sends: bool, has_lists: bool = False
) -> SieveEngine:
    """``allowed`` at delivery; the server may take less, and never more.
    ``sends``: there is a relay for what scripts send."""
    if server.supported_extensions:
        allowed &= frozenset(server.supported_extensions)
    return SieveEngine(allowed if sends else allowed - SENDING, sends=sends, has_lists=has_lists)
