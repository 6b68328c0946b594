"""Address lists of the site: one text file each, read again when it has changed."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocols.addresslists import PREFIX, AddressList, read_list
from storage.errors import Unavailable

log = logging.getLogger("sora.sieve")

SUFFIX: Final = ".list"
MAX_FILE_BYTES: Final = 4 * 1024 * 1024  # some 100,000 addresses
LOOKS_AGAIN_S: Final = 5.0
MAX_LISTS: Final = 200  # in memory
_NAME = re.compile(r"[\w][\w.@+-]{0,200}")


@dataclass(slots=True)
class _Known:
    found: AddressList | None
    stamp: tuple[int, int, int] | None  # of the file; None: there was none
    looked_at: float


class ListFiles:
    """``protocols.addresslists.ListSource``: ``tag:sora,2026:NAME`` is ``NAME.list`` in the directory."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._turn = asyncio.Lock()

    async def find(self, name: str) -> AddressList | None:
        if not name.lower().startswith(PREFIX) or not _NAME.fullmatch(name[len(PREFIX) :]):
            return None
        name = name[len(PREFIX) :]
        known = self._known.get(name)
        if known is None or known.looked_at + LOOKS_AGAIN_S <= self._clock():
            async with self._turn:
                known = await asyncio.to_thread(self._look, name, self._known.get(name))
            if len(self._known) >= MAX_LISTS:
                self._known.clear()
            self._known[name] = known
        return known.found

    def _look(self, name: str, before: _Known | None) -> _Known:
        path, now = self._directory / f"{name}{SUFFIX}", self._clock()
        try:
            there = path.stat()
            stamp = (there.st_mtime_ns, there.st_size, there.st_ino)
            if before is not None and before.stamp == stamp:
                return _Known(before.found, stamp, now)
            return _Known(_read(path), stamp, now)
        except FileNotFoundError:
            return _Known(None, None, now)
        except OSError as error:
            raise Unavailable(f"the list {path} cannot be read: {error.strerror}") from error


def _read(path: Path) -> AddressList | None:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        log.error("the list %s is larger than %d octets and is not used", path, MAX_FILE_BYTES)
        return None
    found, bad = read_list(content.decode("utf-8", "replace").splitlines())
    if bad:
        log.warning("the list %s has lines that are no addresses: %s", path, ", ".join(map(str, bad[:20])))
    return found
