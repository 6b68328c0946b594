"""A message as it is sent on: what was received, or what scripts made of it. Pure."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from typing import overload

from protocols.sieve.outcome import Rewritten
from storage.mime.structure import decode_structure

from .occasion import Occasion
from .way import LOOP_FIELD

_RETURN_PATH = re.compile(rb"^return-path[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)
PIECE_BYTES = 1024 * 1024

Octets = bytes | mmap.mmap


class Pieces(Sequence[bytes]):
    """``head``, and ``data`` from ``start``, which is cut as it is read: a message of any size takes the
    memory of a piece."""

    def __init__(self, head: bytes, data: Octets, start: int = 0) -> None:
        self._head = head
        self._data = data
        self._starts = range(start, len(data), PIECE_BYTES)

    def __len__(self) -> int:
        return 1 + len(self._starts)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        if at < 0 or at >= len(self):
            raise IndexError(at)
        if at == 0:
            return self._head
        start = self._starts[at - 1]
        return self._data[start : start + PIECE_BYTES]


def sent_on(occasion: Occasion, rewritten: Rewritten | None, hops: int) -> Pieces:
    """The octets. Trace fields stay, but Return-Path, which only the last host writes (RFC 5321 §4.4);
    ``hops``: redirects of the message with this one."""
    loop = f"{LOOP_FIELD}: {hops}\r\n".encode()
    if rewritten is None:
        return Pieces(loop + _without_return_path(occasion.trace), occasion.data)
    header = loop + _without_return_path(rewritten.header) + b"\r\n"
    if rewritten.body is not None:
        return Pieces(header, rewritten.body)
    return Pieces(header, occasion.data, decode_structure(occasion.structure).body_start)


def _without_return_path(header: bytes) -> bytes:
    return _RETURN_PATH.sub(b"", header)
