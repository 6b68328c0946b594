"""Which scripts run for an account, compiled: the site's around the user's, and what they include."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.model import AccountId, ActiveScript
from storage.scripts import ScriptStore

from .scriptcache import ScriptCache
from .sieve.compiling import failing
from .sieve.errors import ScriptErrors
from .sieve.interpreter import Named
from .sieve.script import IncludeName, Script

Included = Mapping[IncludeName, Script | None]  # None: it is not there, or cannot be compiled


@dataclass(frozen=True, slots=True)
class SiteScripts:
    """Scripts of the site, run before and after the user's, and those it lets users include."""

    before: bytes = b""
    after: bytes = b""
    shared: Mapping[str, bytes] = field(default_factory=dict)


class ScriptLibrary:
    """``extensions``: names that users' scripts may require, None: all there are; the site's may require all.
    ``max_includes``: scripts that one run may include."""

    def __init__(
        self,
        scripts: ScriptStore,
        site: SiteScripts,
        extensions: frozenset[str] | None,
        *,
        max_includes: int,
    ) -> None:
        self._scripts = scripts
        self._site = site
        self._max_includes = max_includes
        self._cache = ScriptCache(extensions)
        self._site_cache = ScriptCache()

    @property
    def has_site_scripts(self) -> bool:
        return bool(self._site.before or self._site.after)

    def compiled(self, script: ActiveScript) -> Script | ScriptErrors:
        """The user's alone."""
        return self._cache.get(script.content)

    def scripts(self, script: ActiveScript | None) -> list[Script]:
        """Of ``named``, for less."""
        if self.has_site_scripts or script is None:
            return [each.script for each in self.named(script)]
        return [_runnable(self._cache.get(script.content))] if script.content else []

    def named(self, script: ActiveScript | None) -> list[Named]:
        """The scripts to run. One with mistakes fails when its turn comes: what the site's script before it
        decides stays."""
        found = []
        if self._site.before:
            found.append(Named("before", _runnable(self._site_cache.get(self._site.before))))
        if script is not None and script.content:
            found.append(Named(script.name, _runnable(self._cache.get(script.content))))
        if self._site.after:
            found.append(Named("after", _runnable(self._site_cache.get(self._site.after))))
        return found

    async def included(self, account_id: AccountId, named: list[Named]) -> Included:
        """All scripts that may be included, one read for each level."""
        library: dict[IncludeName, Script | None] = {}
        wanted = {name for each in named for name in each.script.includes}
        while wanted and len(library) <= self._max_includes:
            personal = [name.name for name in wanted if name.location == "personal"]
            texts = await self._scripts.contents(account_id, personal) if personal else {}
            for name in wanted:
                is_personal = name.location == "personal"
                content = (texts if is_personal else self._site.shared).get(name.name)
                cache = self._cache if is_personal else self._site_cache
                compiled = None if content is None else cache.get(content)
                library[name] = None if isinstance(compiled, ScriptErrors) else compiled
            found = (library[name] for name in wanted)
            wanted = {inner for each in found if each for inner in each.includes} - library.keys()
        return library


def _runnable(found: Script | ScriptErrors) -> Script:
    return failing(str(found.errors[0])) if isinstance(found, ScriptErrors) else found
