"""A crowd of IMAP clients in a process of its own: ``python -m tests.bench.crowd``, steered by lines.

It says ``ready`` when all are connected (and idle, unless they stall). A line ``wake N`` delivers N messages
to users chosen at random and answers with the latencies in milliseconds, from the LMTP reply to the EXISTS of
each idler of that user; end of input ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import ssl
import sys
import time
from typing import cast

import uvloop

AT_ONCE = 40  # connections being made


class Idler(asyncio.Protocol):
    """Logs in, selects INBOX and idles; or sends half a command and stalls."""

    def __init__(self, user: str, password: str, *, is_stalling: bool) -> None:
        self.user = user
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.woken: asyncio.Future[float] | None = None
        self._steps = [b"c IDLE\r\n", b"b SELECT INBOX\r\n", f"a LOGIN {user} {password}\r\n".encode()]
        if is_stalling:
            self._steps = [b"a LOGIN half"]
        self._is_stalling = is_stalling
        self._awaited = b"* OK"
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.woken is not None and not self.woken.done() and b" EXISTS" in data:
            self.woken.set_result(time.monotonic())
        self._seen += data
        if self.ready.done() or not any(
            line.startswith(self._awaited) for line in self._seen.split(b"\r\n")[:-1]
        ):
            return
        self._seen = b""
        if not self._steps:
            self.ready.set_result(None)
            return
        step = self._steps.pop()
        self._awaited = b"+" if step.startswith(b"c") else step[:2] + b"OK"
        self._transport.write(step)
        if self._is_stalling:
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed by the server"))


async def gather_crowd(wanted: argparse.Namespace, users: list[str]) -> list[Idler]:
    context = None
    if not wanted.plain:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    gate = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()

    async def one(number: int) -> Idler:
        async with gate:
            user = users[number % len(users)]
            _, idler = await loop.create_connection(
                lambda: Idler(user, wanted.password, is_stalling=wanted.stall),
                "127.0.0.1",
                wanted.port,
                ssl=context,
            )
            await idler.ready
            return idler

    return list(await asyncio.gather(*map(one, range(wanted.count))))


async def deliver(lmtp: int, user: str) -> float:
    """When the server said that it has the message."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lmtp)
    await reader.readline()
    for command in ("LHLO bench", "MAIL FROM:<>", f"RCPT TO:<{user}>", "DATA"):
        writer.write(f"{command}\r\n".encode())
        while (await reader.readline())[3:4] == b"-":
            continue
    writer.write(f"Subject: {random.random()}\r\n\r\nwake up\r\n.\r\n".encode())
    reply = await reader.readline()
    assert reply.startswith(b"250"), reply
    at = time.monotonic()
    writer.close()
    return at


async def wake(crowd: list[Idler], lmtp: int, count: int) -> list[float]:
    latencies = []
    users = sorted({idler.user for idler in crowd})
    for _ in range(count):
        user = random.choice(users)
        chosen = [idler for idler in crowd if idler.user == user]
        for idler in chosen:
            idler.woken = asyncio.get_running_loop().create_future()
        told = await deliver(lmtp, user)
        for idler in chosen:
            assert idler.woken is not None
            latencies.append(max(0.0, await asyncio.wait_for(idler.woken, 10) - told) * 1000)
    return latencies


async def run(wanted: argparse.Namespace) -> None:
    users = json.loads(sys.stdin.readline())
    crowd = await gather_crowd(wanted, users)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count = int(line.split()[1])
        print(json.dumps(await wake(crowd, wanted.lmtp, count)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lmtp", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--stall", action="store_true")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
