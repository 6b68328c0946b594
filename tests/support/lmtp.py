"""A plain LMTP client over asyncio streams, pipelining where the protocol allows it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class LmtpClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, host: str, port: int) -> LmtpClient:
        client = cls(*await asyncio.open_connection(host, port))
        await client.reply()
        await client.command(b"LHLO client.example.test")
        return client

    async def reply(self) -> tuple[int, str]:
        lines = []
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError(f"connection closed after {lines}")
            lines.append(line.decode().rstrip())
            if line[3:4] != b"-":
                return int(line[:3]), "\n".join(lines)

    async def command(self, line: bytes) -> tuple[int, str]:
        self.writer.write(line + b"\r\n")
        await self.writer.drain()
        return await self.reply()

    async def deliver(
        self, message: bytes, recipients: Sequence[str], sender: str = "sender@example.test"
    ) -> list[tuple[int, str]]:
        """One reply for each accepted recipient; a refused one's RCPT reply stands in its place."""
        parts = [b"MAIL FROM:<%s>" % sender.encode()]
        parts += [b"RCPT TO:<%s>" % recipient.encode() for recipient in recipients]
        self.writer.write(b"\r\n".join([*parts, b"DATA", b""]))
        await self.writer.drain()
        mail = await self.reply()
        if mail[0] != 250:
            raise ConnectionError(mail[1])
        accepted = [await self.reply() for _ in recipients]
        data = await self.reply()
        if data[0] != 354:
            await self.command(b"RSET")
            return [data if code == 250 else (code, text) for code, text in accepted]
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        if stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        ending = b".\r\n" if stuffed.endswith(b"\r\n") or not stuffed else b"\r\n.\r\n"
        self.writer.write(stuffed + ending)
        await self.writer.drain()
        return [await self.reply() if code == 250 else (code, text) for code, text in accepted]

    async def close(self) -> None:
        self.writer.write(b"QUIT\r\n")
        try:
            await self.writer.drain()
            await self.reader.read()
        except ConnectionError:
            return
        finally:
            self.writer.close()
