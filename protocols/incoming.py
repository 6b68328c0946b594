"""A message as scripts are asked about it. Pure."""

from __future__ import annotations

import mmap
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from storage.errors import Unavailable

from .sieve.fields import Fields

Data = bytes | mmap.mmap


async def _no_data() -> Data:
    raise Unavailable("the message is not at hand")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as one recipient would get it, or as it lies in a mailbox. ``data`` and ``structure`` are of
    the content, which begins behind the trace fields; ``environment`` is RFC 5183's.

    Where ``data`` is None, ``load`` brings it when a script asks for more than the header. It raises
    StorageError.
    """

    sender: str
    recipient: str
    trace: bytes
    header: bytes
    size_bytes: int
    structure: bytes
    data: Data | None
    environment: Mapping[str, str]
    flags: tuple[str, ...] = ()  # that it has already
    is_delivery: bool = True  # False: something happened to it in a mailbox, and there is no envelope
    load: Callable[[], Awaitable[Data]] = _no_data
    fields: Fields | None = None  # of ``trace`` and ``header``, where somebody has read some of them
