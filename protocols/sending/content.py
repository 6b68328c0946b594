"""A message as it is sent on: what was received, or what scripts made of it. Pure."""

from __future__ import annotations

import mmap
import re

from protocols.sieve.outcome import Rewritten
from storage.mime.structure import decode_structure

from .occasion import Occasion
from .way import LOOP_FIELD

_RETURN_PATH = re.compile(rb"^return-path[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)
PIECE_BYTES = 1024 * 1024

Octets = bytes | mmap.mmap


def sent_on(occasion: Occasion, rewritten: Rewritten | None, hops: int) -> list[bytes]:
    """The octets, in pieces. Trace fields stay, but Return-Path, which only the last host writes (RFC 5321
    §4.4); ``hops``: redirects of the message with this one."""
    loop = f"{LOOP_FIELD}: {hops}\r\n".encode()
    if rewritten is None:
        return [loop + _without_return_path(occasion.trace), *pieces(occasion.data)]
    header = loop + _without_return_path(rewritten.header) + b"\r\n"
    if rewritten.body is not None:
        return [header, *pieces(rewritten.body)]
    return [header, *pieces(occasion.data, decode_structure(occasion.structure).body_start)]


def pieces(data: Octets, start: int = 0) -> list[bytes]:
    return [data[at : at + PIECE_BYTES] for at in range(start, len(data), PIECE_BYTES)]


def _without_return_path(header: bytes) -> bytes:
    return _RETURN_PATH.sub(b"", header)
