"""What a running node takes over from a configuration that was read again, by the option table.

Keys are as in the file; servers are matched by name and appear as ``servers.NAME``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from .model import Config
from .option import Row, Section, rows
from .server import Server


class Merged(NamedTuple):
    """``config`` is the old one with those changes that were allowed."""

    config: Config
    taken: list[str]
    left: list[str]  # changed, and not taken


# Asked with a canonical key, as ``every_row`` spells it (``servers[].addr``), and the type of the server it
# belongs to, else "".
MayTake = Callable[[str, str], bool]


def merge(old: Config, new: Config, may_take: MayTake) -> Merged:
    walk = _Merge(may_take)
    config = walk.section(old, new, "", "")
    return Merged(config, walk.taken, walk.left)


class _Merge:
    def __init__(self, may_take: MayTake) -> None:
        self._may_take = may_take
        self._server_type = ""  # of the server that is looked at
        self.taken: list[str] = []
        self.left: list[str] = []

    def section(self, old: Any, new: Any, pattern: str, key: str) -> Any:
        of: type = type(old)
        values: dict[str, Any] = {}
        for row in rows(of):
            before, after = getattr(old, row.name), getattr(new, row.name)
            if before != after:
                values[row.name] = self._row(row, before, after, pattern + row.key, key + row.key)
        return dataclasses.replace(old, **values) if values else old

    def _row(self, row: Row, before: Any, after: Any, pattern: str, key: str) -> Any:
        if isinstance(row, Section) and row.of is Server:
            return self._servers(before, after, f"{pattern}[].", key)
        is_table = isinstance(row, Section) and not row.repeated
        if is_table and before is not None and after is not None:
            return self.section(before, after, f"{pattern}.", f"{key}.")
        if self._may_take(pattern, self._server_type):
            self.taken.append(key)
            return after
        self.left.append(key)
        return before

    def _servers(
        self, before: tuple[Server, ...], after: tuple[Server, ...], pattern: str, key: str
    ) -> tuple[Server, ...]:
        """Servers that came or went need a restart; their order means nothing."""
        new = {server.name: server for server in after}
        kept = []
        for server in before:
            if server.name in new:
                self._server_type = server.type
                server = self.section(server, new.pop(server.name), pattern, f"{key}.{server.name}.")
            else:
                self.left.append(f"{key}.{server.name}")
            kept.append(server)
        self._server_type = ""
        self.left += [f"{key}.{name}" for name in new]
        return tuple(kept)
