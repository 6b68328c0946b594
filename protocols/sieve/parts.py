"""The MIME parts of a message in loops and tests (RFC 5703), and what scripts put in their place."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from storage.mime.structure import Part

from .fields import Fields

Data: TypeAlias = bytes | mmap.mmap


@dataclass(slots=True)
class PartView:
    """One part of the message."""

    data: Data
    part: Part
    _fields: Fields | None = None

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            self._fields = Fields(self.data[self.part.header_start : self.part.body_start])
        return self._fields

    def descendants(self) -> Iterator[PartView]:
        """In depth, without itself."""
        return (PartView(self.data, part) for child in self.part.children for part in walk(child))


def walk(root: Part) -> Iterator[Part]:
    stack = [root]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(reversed(part.children))


@dataclass(slots=True)
class PartEdits:
    """What ``replace`` and ``enclose`` did: pieces of the body by where they stood, and the new body."""

    pieces: dict[tuple[int, int], bytes] = field(default_factory=dict)
    body: bytes | None = None  # as changed so far

    def replace(self, data: Data, root: Part, part: Part, header: bytes, body: bytes) -> None:
        """``header`` are the MIME fields of the new part."""
        self.pieces[(part.header_start, part.body_end)] = header + b"\r\n" + body
        self.body = _spliced(data, root, self.pieces)


def _spliced(data: Data, root: Part, pieces: dict[tuple[int, int], bytes]) -> bytes:
    found, pos = [], root.body_start
    for (start, stop), piece in sorted(pieces.items()):
        if start >= pos:
            found += [data[pos:start], piece]
            pos = stop
    found.append(data[pos : len(data)])
    return b"".join(found)


def boundary(*texts: bytes) -> bytes:
    """One that none of the texts contains: their hash, which nobody can put into them."""
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    return b"=_sieve_" + digest[:40].encode()
