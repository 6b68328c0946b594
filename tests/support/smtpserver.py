"""An SMTP server for tests that says what it is told to, at each step."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

HANG, DROP = "hang", "drop"


@dataclass
class Accepted:
    sender: str
    recipients: list[str]
    message: bytes


@dataclass
class SmtpServer:
    """``says``: reply by step (greeting, EHLO, STARTTLS, AUTH, MAIL, RCPT:address, RCPT, DATA, ., RSET,
    QUIT), or ``HANG`` or ``DROP``. ``injects``: what a stranger on the way adds to the answer to STARTTLS."""

    says: dict[str, str] = field(default_factory=dict)
    extensions: Sequence[str] = ("8BITMIME", "SMTPUTF8", "SIZE 1000000", "ENHANCEDSTATUSCODES")
    context: ssl.SSLContext | None = None
    has_starttls: bool = False
    login: tuple[str, str] | None = None
    mechanisms: str = "PLAIN LOGIN"
    injects: bytes = b""
    accepted: list[Accepted] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    authenticated: int = 0

    async def __aenter__(self) -> SmtpServer:
        implicit = self.context if not self.has_starttls else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=implicit)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_for(self, count: int, patience_s: float = 60.0) -> None:
        """Until so many messages were accepted."""
        async with asyncio.timeout(patience_s):
            while len(self.accepted) < count:
                await asyncio.sleep(0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if await self._say(writer, "greeting", "220 mx.test ESMTP"):
                await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            return
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _say(self, writer: asyncio.StreamWriter, step: str, usual: str) -> bool:
        """Whether the conversation goes on."""
        reply = self.says.get(step, usual)
        if reply == HANG:
            await asyncio.Event().wait()
        if reply == DROP:
            return False
        writer.write(reply.encode() + b"\r\n")
        await writer.drain()
        return not reply.startswith("421")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender, recipients = "", list[str]()
        while line := (await reader.readline()).decode():
            words = line.strip()
            self.commands.append(words)
            verb = words.split(" ")[0].upper()
            if verb == "EHLO":
                goes_on = await self._say(writer, "EHLO", self._ehlo())
            elif verb == "STARTTLS":
                goes_on = await self._starttls(writer)
            elif verb == "AUTH":
                goes_on = await self._auth(words.split(" "), reader, writer)
            elif verb == "MAIL":
                sender, recipients = words[words.index("<") + 1 : words.index(">")], []
                goes_on = await self._say(writer, "MAIL", "250 2.1.0 ok")
            elif verb == "RCPT":
                address = words[words.index("<") + 1 : words.index(">")]
                reply = self.says.get(f"RCPT:{address}", self.says.get("RCPT", "250 2.1.5 ok"))
                if reply.startswith("2"):
                    recipients.append(address)
                goes_on = await self._say(writer, f"RCPT:{address}", reply)
            elif verb == "DATA":
                goes_on = await self._say(writer, "DATA", "354 go on")
                if goes_on and self.says.get("DATA", "354").startswith("354"):
                    raw = await reader.readuntil(b"\r\n.\r\n")
                    if self.says.get(".", "250").startswith("250"):
                        self.accepted.append(Accepted(sender, recipients, raw[:-3]))
                    goes_on = await self._say(writer, ".", "250 2.0.0 queued")
            elif verb == "QUIT":
                await self._say(writer, "QUIT", "221 bye")
                return
            else:
                goes_on = await self._say(writer, verb, "250 ok")
            if not goes_on:
                return

    async def _starttls(self, writer: asyncio.StreamWriter) -> bool:
        assert self.context is not None
        if "STARTTLS" in self.says:
            return await self._say(writer, "STARTTLS", "")
        writer.write(b"220 go\r\n" + self.injects)
        await writer.start_tls(self.context)
        self.has_starttls = False
        return True

    def _ehlo(self) -> str:
        names = ["mx.test", *self.extensions]
        if self.has_starttls:
            names.append("STARTTLS")
        if self.login is not None:
            names.append(f"AUTH {self.mechanisms}")
        return "\r\n".join([f"250-{each}" for each in names[:-1]] + [f"250 {names[-1]}"])

    async def _auth(
        self, words: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if words[1] == "PLAIN":
            given = tuple(base64.b64decode(words[2]).decode().split("\0")[1:])
        else:
            writer.write(b"334 UGFzc3dvcmQ6\r\n")
            secret = (await reader.readline()).decode().strip()
            given = (base64.b64decode(words[2]).decode(), base64.b64decode(secret).decode())
        is_right = given == self.login
        self.authenticated += is_right
        return await self._say(writer, "AUTH", "235 2.7.0 ok" if is_right else "535 5.7.8 no")
