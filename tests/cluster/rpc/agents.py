"""An agent without a cluster, and a client as plain as can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgpack

from cluster.address import Address
from cluster.effects import Effect, MemberView, QueryAnswered, UserEvent
from cluster.messages import VSN, State
from cluster.rpc import AgentRefused, RpcServer
from cluster.serf.coordinates import ORIGIN, Coordinate
from cluster.serf.keyqueries import KeyAnswer, encode_key_answer

ANY = Address("127.0.0.1", 0)


def member(name: str, number: int, *, state: State = State.ALIVE, is_leaving: bool = False) -> MemberView:
    address = Address(f"10.0.0.{number}", 7946)
    return MemberView(name, address, state, 1, {"role": name[0]}, VSN, 0.0, 0.0, is_leaving, 0.01)


class FakeAgent:
    """Answers each query with two responses; keeps what it was told to do."""

    name = "a1"

    def __init__(self) -> None:
        self.held = [
            member("a1", 1),
            member("b2", 2, state=State.SUSPECT),
            member("b3", 3, state=State.DEAD),
            member("c4", 4, state=State.LEFT, is_leaving=True),
            member("c5", 5, is_leaving=True),
        ]
        self.done: list[tuple[object, ...]] = []
        self.listeners: list[Callable[[Effect], None]] = []
        self.key_answer = KeyAnswer(True, "", ("S0VZ",), "S0VZ")
        self.refusal = ""
        self.tokens = {41}
        self._number = 0

    def tell(self, effect: Effect) -> None:
        for hear in tuple(self.listeners):
            hear(effect)

    def _do(self, *what: object) -> None:
        if self.refusal:
            raise AgentRefused(self.refusal)
        self.done.append(what)

    async def members(self) -> Sequence[MemberView]:
        return self.held

    async def figures(self) -> Mapping[str, int | float]:
        return {"packets_sent": 7, "round_trip_s": 0.00123456789}

    async def coordinate(self, name: str) -> Coordinate | None:
        return ORIGIN if name in ("a1", "b2") else None

    async def join(self, peers: Sequence[str]) -> int:
        self._do("join", list(peers))
        return len(peers)

    async def leave(self) -> None:
        self._do("leave")

    async def force_leave(self, name: str, *, prune: bool) -> bool:
        self._do("force-leave", name, prune)
        return False

    async def change_tags(self, tags: Mapping[str, str], drop: Collection[str]) -> None:
        self._do("tags", dict(tags), list(drop))
        own = self.held[0]
        kept = {tag: value for tag, value in own.tags.items() if tag not in drop}
        self.held[0] = replace(own, tags={**kept, **tags})

    async def send_event(self, name: str, payload: bytes, *, may_coalesce: bool) -> None:
        if len(payload) > 512:
            raise AgentRefused("too long")
        self._do("event", name, payload, may_coalesce)
        self.tell(UserEvent(len(self.done), name, payload, may_coalesce))

    async def ask(
        self,
        name: str,
        payload: bytes,
        *,
        timeout_s: float,
        nodes: Sequence[str],
        tags: Mapping[str, str],
        wants_ack: bool,
    ) -> int:
        self._do("ask", name, payload, timeout_s, list(nodes), dict(tags), wants_ack)
        self._number += 1
        asyncio.get_running_loop().call_soon(self._answer, self._number, name, wants_ack)
        return self._number

    def _answer(self, number: int, name: str, wants_ack: bool) -> None:
        is_key = name.endswith(("key", "keys"))
        for node in ("a1", "b2", "c5"):
            if wants_ack:
                self.tell(QueryAnswered(number, node, None))
            payload = encode_key_answer(self.key_answer) if is_key else f"from {node}".encode()
            if name != "_serf_ping":
                self.tell(QueryAnswered(number, node, payload))
        self.tell(QueryAnswered(number, "", None, is_over=True))

    async def respond(self, token: int, payload: bytes) -> None:
        if token not in self.tokens:
            raise AgentRefused("No pending queries matching ID")
        self._do("respond", token, payload)

    def subscribe(self, hear: Callable[[Effect], None]) -> Callable[[], None]:
        self.listeners.append(hear)
        return lambda: self.listeners.remove(hear)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unpacker = msgpack.Unpacker()

    async def send(self, *values: object) -> None:
        self._writer.write(b"".join(msgpack.packb(value) for value in values))
        await self._writer.drain()

    async def send_raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read(self) -> Any:
        """The next value, None at the end."""
        while True:
            try:
                return self._unpacker.unpack()
            except msgpack.OutOfData:
                async with asyncio.timeout(60):
                    data = await self._reader.read(65536)
                if not data:
                    return None
                self._unpacker.feed(data)

    async def call(self, seq: int, command: str, body: object = None) -> Any:
        await self.send({"Command": command, "Seq": seq}, *([] if body is None else [body]))
        return await self.read()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def serving(agent: FakeAgent, **options: Any) -> AsyncIterator[tuple[RpcServer, Address]]:
    server = RpcServer(agent, **options)
    address = await server.start(ANY)
    try:
        yield server, address
    finally:
        await server.stop()


@asynccontextmanager
async def connected(address: Address, *, handshake: bool = True) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(address.ip, address.port))
    try:
        if handshake:
            assert await client.call(0, "handshake", {"Version": 1}) == {"Seq": 0, "Error": ""}
        yield client
    finally:
        await client.close()
