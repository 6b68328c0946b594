"""From the configuration to a node that is in its cluster, and out of it again."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from cluster.address import Address
from cluster.api import Settings
from cluster.rpc import DEFAULT_PORT, GossipAgent, RpcServer
from cluster.sockets import bind
from cluster.thread import GossipUnavailable
from node.presentation import node_version
from node.units import parse_address

from .errors import ClusterUnusable
from .keyfile import KeyFile, key_path
from .service import Clustering, Parts
from .thread import ThreadGossip

if TYPE_CHECKING:
    from cluster.api import ClusterEngine
    from node.config import Config

log = logging.getLogger("sora.cluster")

FIRST_JOIN_WITHIN_S: Final = 1.5
LOOK_EVERY_S: Final = 0.02

MakeEngine = Callable[[Settings], "ClusterEngine"]


def node_name(config: Config) -> str:
    return config.cluster.node_id or socket.gethostname()


def key_file(config: Config) -> KeyFile:
    return KeyFile(key_path(config))


def configured_keys(config: Config) -> tuple[bytes, ...]:
    cluster = config.cluster
    keys = (cluster.secret_key.reveal(), *(each.reveal() for each in cluster.secret_keys_old))
    return tuple(dict.fromkeys(key for key in keys if key))


def gossip_settings(config: Config, keys: tuple[bytes, ...], epoch_ms: int) -> Settings:
    cluster = config.cluster
    advertise = cluster.advertise
    return Settings(
        name=node_name(config),
        advertise=Address(advertise.host, advertise.port),
        keys=keys,
        tags={"sora": node_version() or "1"},
        label=cluster.label,
        epoch=epoch_ms,
        allows_remote_keys=cluster.allow_remote_key_changes,
        accepts_loopback=cluster.testing_allow_loopback,
    )


async def open_cluster(
    config: Config, parts: Parts, exit_stack: AsyncExitStack, make_engine: MakeEngine
) -> Clustering:
    """The node gossips when it returns, and has had a moment to learn what the others know; that they are
    away is no fault. Raises ClusterUnusable."""
    keys = KeyKeeper(config)
    where = config.cluster.bind
    try:
        sockets = bind(Address(where.host, where.port))
    except OSError as error:
        raise ClusterUnusable(
            f"cluster.addr {where}: {error.strerror or error}; it must be an address of this machine,"
            " and nothing else may use its port, UDP or TCP"
        ) from error

    def engine() -> ClusterEngine:
        return make_engine(gossip_settings(config, keys.current, time.time_ns() // 1_000_000))

    peers = [str(parse_address(peer, config.cluster.port)) for peer in config.cluster.other_peers]
    gossip = ThreadGossip(node_name(config), engine, sockets, peers)
    exit_stack.push_async_callback(gossip.close)
    clustering = Clustering(config, gossip, parts, call_later=asyncio.get_running_loop().call_later)
    clustering.keys_changed = keys.changed
    clustering.key_keeper = keys
    gossip.restored = clustering.restore
    clustering.expelled = gossip.close_soon
    exit_stack.push_async_callback(keys.settle)
    try:
        await gossip.start()
    except (GossipUnavailable, OSError, ValueError) as error:
        raise ClusterUnusable(f"gossip on {where} cannot be started: {error}") from error
    exit_stack.push_async_callback(clustering.leave)
    await _first_join(clustering)
    await clustering.begin(keys.current)
    log.info("node %s gossips on %s", gossip.name, where)
    await _open_rpc(config, clustering, gossip, exit_stack)
    return clustering


async def _open_rpc(
    config: Config, clustering: Clustering, gossip: ThreadGossip, exit_stack: AsyncExitStack
) -> None:
    """For the serf program and its clients. Raises ClusterUnusable."""
    cluster = config.cluster
    if not cluster.rpc_addr:
        return
    where = parse_address(cluster.rpc_addr, DEFAULT_PORT)

    async def leave() -> None:
        await clustering.hand_over()
        await clustering.leave()

    gossip.agent = GossipAgent(gossip.name, gossip.thread, leave=leave)
    server = RpcServer(gossip.agent, auth_key=cluster.rpc_auth_key.reveal())
    exit_stack.push_async_callback(server.stop)
    try:
        await server.start(Address(where.host, where.port))
    except (OSError, ValueError) as error:
        raise ClusterUnusable(f"cluster.rpc_addr {where}: {error}") from error
    log.info("the agent RPC listens on %s", where)


async def _first_join(clustering: Clustering) -> None:
    """A node that knows of blocks before it opens its doors turns away who was blocked before it started."""
    expected = len(clustering.config.cluster.other_peers)
    try:
        async with asyncio.timeout(FIRST_JOIN_WITHIN_S):
            while expected and not clustering.has_joined and len(clustering.joins) < expected:
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        log.warning("no other node has answered yet; this one starts alone and goes on trying")


class KeyKeeper:
    """The keys in use, and the file that keeps them after a change."""

    def __init__(self, config: Config) -> None:
        self._file = key_file(config)
        self.configured = configured_keys(config)
        self.current = self._file.keys(self.configured)
        self._saving: asyncio.Task[None] | None = None

    def reload(self, config: Config) -> tuple[bytes, ...] | None:
        """Keys to use from now on, when the configuration has others."""
        configured = configured_keys(config)
        if configured == self.configured:
            return None
        self.configured = configured
        return configured

    def changed(self, keys: tuple[bytes, ...]) -> None:
        self.current = keys
        before = self._saving
        self._saving = asyncio.create_task(self._save(before, keys, self.configured))

    async def _save(
        self, before: asyncio.Task[None] | None, keys: tuple[bytes, ...], configured: tuple[bytes, ...]
    ) -> None:
        if before is not None:
            await before
        try:
            await asyncio.to_thread(self._file.save, keys, configured)
        except OSError as error:
            log.error(
                "the changed keys of the cluster cannot be kept in %s (%s): after a restart this node uses"
                " those of its configuration",
                *(self._file.path, error),
            )

    async def settle(self) -> None:
        """What is being written is written."""
        if self._saving is not None:
            await self._saving
