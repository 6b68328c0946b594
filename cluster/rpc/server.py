"""The agent RPC on a TCP port, so that ``serf members -rpc-addr=...`` works against this node.

Invariants: it listens on loopback only, unless there is an auth key; connections, requests and what a slow
client has not read are bounded; a client that says nothing of use is closed after HANDSHAKE_TIMEOUT_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from typing import Final

from ..address import Address
from .agent import Agent
from .conversation import Conversation
from .machine import ClientError, Session

log = logging.getLogger("sora.rpc")

DEFAULT_PORT: Final = 7373
MAX_CONNECTIONS: Final = 32
MAX_BACKLOG_BYTES: Final = 1024 * 1024  # not read yet by a client
HANDSHAKE_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 16 * 1024
_SEND_TIMEOUT_S: Final = 30.0


class RpcServer:
    def __init__(
        self,
        agent: Agent,
        *,
        auth_key: str = "",
        max_connections: int = MAX_CONNECTIONS,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._agent = agent
        self._auth_key = auth_key
        self._max_connections = max_connections
        self._handshake_timeout_s = handshake_timeout_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = 0
        self.served = 0

    async def start(self, address: Address) -> Address:
        """Where it listens, when ``address.port`` is 0. Raises OSError, and ValueError for an address that is
        reached from outside while there is no auth key."""
        if not self._auth_key and not ipaddress.ip_address(address.ip).is_loopback:
            raise ValueError(f"the agent RPC listens on {address.ip} only with an auth key")
        self._server = await asyncio.start_server(self._connected, address.ip, address.port)
        port: int = self._server.sockets[0].getsockname()[1]
        return Address(address.ip, port)

    async def stop(self) -> None:
        """Closes all connections; harmless when it does not run."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= self._max_connections:
            self.refused += 1
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.served += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, TimeoutError) as fault:
            log.debug("a client of the agent RPC is gone: %s", fault or type(fault).__name__)
        except ClientError as fault:
            log.info("a client of the agent RPC is closed: %s", fault)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self._auth_key)
        conversation = Conversation(
            self._agent,
            session,
            has_room=lambda: writer.transport.get_write_buffer_size() < MAX_BACKLOG_BYTES,
            flush=lambda: _flush(session, writer),
        )
        deadline = asyncio.get_running_loop().time() + self._handshake_timeout_s
        with contextlib.closing(conversation):
            while not session.is_closing:
                async with asyncio.timeout_at(None if session.is_open else deadline):
                    data = await reader.read(_READ_BYTES)
                if not data:
                    return
                await self._take(data, session, conversation, writer)

    async def _take(
        self, data: bytes, session: Session, conversation: Conversation, writer: asyncio.StreamWriter
    ) -> None:
        try:
            requests = session.receive_data(data)
        finally:
            _flush(session, writer)
        for request in requests:
            await conversation.run(request)
            _flush(session, writer)
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await writer.drain()


def _flush(session: Session, writer: asyncio.StreamWriter) -> None:
    data = session.data_to_send()
    if data and not writer.is_closing():
        writer.write(data)
