"""A node of a cluster without the mail: gossip in its thread, the agent RPC on the loop of the test."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import Effect
from cluster.engine import Engine
from cluster.profile import SORA, Profile
from cluster.rpc import GossipAgent, RpcServer
from cluster.sockets import bind
from cluster.thread import GossipThread

E = TypeVar("E", bound=Effect)


class GossipNode:
    """``async with GossipNode("a", "127.0.0.11", key) as node``; ``told`` has all effects."""

    def __init__(
        self,
        name: str,
        ip: str,
        key: bytes,
        *,
        port: int = 0,
        tags: dict[str, str] | None = None,
        profile: Profile = SORA,
        allows_remote_keys: bool = True,
        auth_key: str = "",
    ) -> None:
        self.name = name
        sockets = bind(Address(ip, port))
        self.address = sockets.address
        self._settings = Settings(
            name=name,
            advertise=self.address,
            keys=(key,),
            tags=tags or {},
            profile=profile,
            allows_remote_keys=allows_remote_keys,
            accepts_loopback=True,
        )
        self.told: list[Effect] = []
        self.crashes: list[BaseException] = []
        self.thread = GossipThread(
            self._make_engine, sockets, on_effects=self._hear, on_crash=self.crashes.append
        )
        self.agent = GossipAgent(name, self.thread, leave=self.thread.leave)
        self.server = RpcServer(self.agent, auth_key=auth_key)
        self.rpc = Address(ip, 0)

    def _make_engine(self) -> Engine:
        return Engine(self._settings, rng=random.Random(7), nonce=lambda: os.urandom(12))

    def _hear(self, effects: Sequence[Effect]) -> None:
        self.told += effects
        self.agent.hear(effects)

    async def __aenter__(self) -> GossipNode:
        await self.thread.start()
        self.rpc = await self.server.start(self.rpc)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.stop()
        await self.thread.stop()
        assert not self.crashes, self.crashes

    def heard(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.told if isinstance(effect, kind)]

    async def serf(self, *words: str, is_checked: bool = True) -> str:
        """What Debian's ``serf WORDS`` prints when it talks to this node."""
        argv = ("serf", words[0], f"-rpc-addr={self.rpc}", *words[1:])
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        text = output.decode()
        assert not is_checked or process.returncode == 0, (words, text)
        return text
