"""A TLS client whose first flight can be cut into pieces, and can have something in front of it."""

from __future__ import annotations

import asyncio
import socket
import ssl


async def send_in_pieces(sock: socket.socket, data: bytes, size: int) -> None:
    """Every piece is a segment of its own; the server gets turns in between."""
    loop = asyncio.get_running_loop()
    for start in range(0, len(data), size):
        await loop.sock_sendall(sock, data[start : start + size])
        await asyncio.sleep(0)


async def dial(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


class TlsClient:
    """TLS through memory buffers over a socket that is the caller's."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str = "localhost") -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self.hello = b""

    async def handshake(self, *, before: bytes = b"", size: int = 1 << 20) -> None:
        """``before`` and the hello go out as one stream of pieces of ``size`` bytes."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.hello = self._outgoing.read()
        await send_in_pieces(self.sock, before + self.hello, size)
        while True:
            await self._fill()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            finally:
                await self._flush()
            return

    async def read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            try:
                line += self._tls.read(1)
            except ssl.SSLWantReadError:
                await self._fill()
        return line

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def _fill(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
        if not data:
            raise ConnectionError("closed")
        self._incoming.write(data)

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self.sock, self._outgoing.read())
