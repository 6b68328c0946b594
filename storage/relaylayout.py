"""What lies in the directories of a relay queue: its own files, told by name and kind, and strays.

A stray is whatever else people and programs leave there. It is named to operators, and never touched.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import Unavailable
from .objects.disk import TEMPORARY_SUFFIX

PENDING, PROCESSING, FAILED = "pending", "processing", "failed"
STATES: Final = (PENDING, PROCESSING, FAILED)
ADOPTING: Final = "adopting"
SHOWN_STRAYS: Final = 20
_ID: Final = r"(?:k[0-9a-f]{24}|[0-9a-f]{11})(?:-[0-9a-f]{8})?"  # RelaySpool gives them
_IDS: Final = re.compile(_ID)
_TEMPORARY: Final = re.compile(rf"\.{_ID}\.[0-9a-f]{{8}}{re.escape(TEMPORARY_SUFFIX)}")
_COPIES: Final = re.compile(rf"(?:{PENDING}|{FAILED})\.{_ID}")
_SHOWN_CHARS: Final = 100


@dataclass(frozen=True, slots=True)
class Strays:
    """How many there are, and the first few below the queue, by name and fit to be printed."""

    count: int
    paths: tuple[str, ...]


def is_id(text: str) -> bool:
    return _IDS.fullmatch(text) is not None


def is_message(entry: os.DirEntry[str]) -> bool:
    """Whether a directory of the queue has a message there."""
    return is_id(entry.name) and entry.is_file(follow_symlinks=False)


def is_temporary(entry: os.DirEntry[str]) -> bool:
    """A submission that is under way, or that broke."""
    return _TEMPORARY.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)


def is_copy(entry: os.DirEntry[str]) -> bool:
    """A message in ``adopting``: where it goes, and its id."""
    return _COPIES.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)


def find_strays(root: Path) -> Strays:
    """O(messages), some 1 us each; memory of ``SHOWN_STRAYS``. Blocks. Raises Unavailable."""
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for path in _strays(root):
            count += 1
            yield path

    try:
        paths = tuple(heapq.nsmallest(SHOWN_STRAYS, counted()))
    except OSError as error:
        raise Unavailable(f"looking for what is not of the relay queue failed: {error}") from error
    return Strays(count, paths)


def _strays(root: Path) -> Iterator[str]:
    for directory in (*STATES, ADOPTING):
        with contextlib.suppress(FileNotFoundError), os.scandir(root / directory) as entries:
            for entry in entries:
                if _is_stray(directory, entry):
                    yield _printable(f"{directory}/{entry.name}")


def _is_stray(directory: str, entry: os.DirEntry[str]) -> bool:
    if directory == ADOPTING:
        is_ours = is_copy(entry)
    else:
        is_ours = is_message(entry) or (directory == PENDING and is_temporary(entry))
    # what was moved meanwhile has no kind any more
    return not is_ours and os.path.lexists(entry.path)


def _printable(path: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in path[: _SHOWN_CHARS + 1])
    return shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "..."
