"""Writing much without holding much: responses in large writes, paused by the client's own speed."""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from protocols.errors import PeerGone
from storage.errors import StorageError

if TYPE_CHECKING:
    from protocols.ports import Connection
    from storage.api import Body

# Large enough that system calls and TLS records do not count, small enough for 10,000 sessions.
FLUSH_BYTES: Final = 128 * 1024


@types.coroutine
def breathe() -> Generator[None, None, None]:
    """Let other tasks run once; a long computation calls this every few milliseconds."""
    yield


class BulkWriter:
    """Collects untagged responses of one command and writes them in large pieces.

    What it wrote comes before anything the session sends afterwards, provided ``flush`` was awaited.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)

    @property
    def is_full(self) -> bool:
        return self._size >= FLUSH_BYTES

    async def flush(self) -> None:
        """Hand everything to the transport, wait while it has too much, and let others run."""
        if self._pieces:
            self._connection.write(b"".join(self._pieces))
            self._pieces.clear()
            self._size = 0
            await self._connection.drain()
        await breathe()

    async def stream(self, body: Body, start: int, stop: int) -> None:
        """Write bytes ``start`` to ``stop``, whose count has been announced already.

        Raises PeerGone when they cannot be had: the client waits for exactly this many octets, and any
        other octets in their place would be taken for mail. Cutting the connection is the only true answer.
        """
        missing = stop - start
        try:
            async for piece in body.stream(start, stop):
                missing -= len(piece)
                if missing < 0:
                    raise PeerGone("a body is longer than it was when its size was told")
                self.add(piece)
                if self.is_full:
                    await self.flush()
        except StorageError as error:
            raise PeerGone(f"a body broke off within a literal: {error}") from error
        if missing:
            raise PeerGone("a body is shorter than its size says")
