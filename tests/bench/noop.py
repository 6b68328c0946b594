"""CPU time of NOOP through driver, machine and session: ``python -m tests.bench.noop``.

In memory first, where every nanosecond of ours shows; then over loopback sockets, where a client lives.
"""

from __future__ import annotations

import asyncio
import time

import uvloop

from node.metrics.counting import ProtocolInstruments
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.driver import LineConnection
from protocols.ports import SessionFactory
from tests.support.imap import ImapLab
from tests.support.wire import MemoryTransport

ROUNDS = 9
MEMORY_COMMANDS = 20_000
SOCKET_COMMANDS = 5_000


def in_memory(factory: SessionFactory, live: LiveConnections) -> float:
    """CPU microseconds a command, one at a time."""
    connection = LineConnection(factory, live)
    transport = MemoryTransport()
    transport.connect(connection)
    started = time.process_time()
    for _ in range(MEMORY_COMMANDS):
        connection.data_received(b"a NOOP\r\n")
        transport.written.clear()
    return (time.process_time() - started) / MEMORY_COMMANDS * 1e6


async def over_sockets(factory: SessionFactory, live: LiveConnections) -> float:
    """The same with a client of streams; its CPU time and the kernel's are in it."""
    server = await asyncio.get_running_loop().create_server(
        lambda: LineConnection(factory, live), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.readline()
    started = time.process_time()
    for _ in range(SOCKET_COMMANDS):
        writer.write(b"a NOOP\r\n")
        await reader.readline()
    spent = (time.process_time() - started) / SOCKET_COMMANDS * 1e6
    writer.close()
    server.close()
    return spent


async def run() -> None:
    lab = ImapLab(instruments=ProtocolInstruments())
    live = LiveConnections(DeadlineWheel(asyncio.get_running_loop()))
    factory = lab.factory
    memory = min(in_memory(factory, live) for _ in range(ROUNDS))
    sockets = min([await over_sockets(factory, live) for _ in range(ROUNDS)])
    print(f"NOOP in memory {memory:6.2f} us, over sockets with the client {sockets:6.2f} us")


if __name__ == "__main__":
    uvloop.run(run())
