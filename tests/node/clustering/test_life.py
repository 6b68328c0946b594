"""From a configuration to a node in its cluster: what keeps it out, and what it starts with."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.clustering.engine import real_engine
from node.clustering.errors import ClusterUnusable
from node.clustering.keyfile import KeyFile
from node.clustering.life import KeyKeeper, configured_keys, gossip_settings, node_name, open_cluster
from node.clustering.service import Parts
from node.config import Config
from node.config.secret import Secret
from node.config.services import Cluster
from node.config.storage import Uploader
from node.loginguard import Guards
from node.sessions import Sessions
from tests.support.ports import free_port

from .cluster import Feed

FIRST, SECOND = bytes([1] * 32), bytes([2] * 32)


def config_in(directory: Path, **cluster: Any) -> Config:
    section = {"enabled": True, "node_id": "a", "testing_allow_loopback": True, "secret_key": Secret(FIRST)}
    return Config(
        uploader=Uploader(path=str(directory / "staging")), cluster=Cluster(**{**section, **cluster})
    )


def parts(config: Config) -> Parts:
    async def listeners() -> list[Any]:
        return []

    guards = Guards(config, check_takes_s=lambda: 0.0)
    feed: Any = Feed()
    return Parts(guards, Sessions(), feed, listeners, kick=lambda _filters, _before: 0)


async def test_an_address_of_another_machine_keeps_a_node_from_starting(tmp_path: Path) -> None:
    config = config_in(tmp_path, addr="192.0.2.1:7946")
    async with AsyncExitStack() as stack:
        with pytest.raises(ClusterUnusable, match=r"192\.0\.2\.1:7946.*an address of this machine"):
            await open_cluster(config, parts(config), stack, real_engine)


async def test_a_port_in_use_keeps_a_node_from_starting(tmp_path: Path) -> None:
    config = config_in(tmp_path, addr=f"127.0.64.1:{free_port('127.0.64.1')}")
    async with AsyncExitStack() as stack:
        await open_cluster(config, parts(config), stack, real_engine)
        with pytest.raises(ClusterUnusable, match="in use"):
            await open_cluster(config, parts(config), stack, real_engine)


async def test_peers_that_are_away_are_no_fault_and_found_later(tmp_path: Path) -> None:
    port = free_port("127.0.64.1", "127.0.64.2")
    peers = (f"127.0.64.1:{port}", f"127.0.64.2:{port}")
    async with AsyncExitStack() as stack:
        opened = []
        for number, name in enumerate("ab", start=1):
            config = config_in(tmp_path / name, addr=f"127.0.64.{number}:{port}", node_id=name, peers=peers)
            opened.append(await open_cluster(config, parts(config), stack, real_engine))
        first, second = opened
        assert first.joins[peers[1]].error
        assert second.has_joined
        assert {each.name for each in await first.gossip.members()} == {"a", "b"}
        assert second.roster.peers() == ("127.0.64.1",)


async def test_the_rpc_answers_where_it_is_configured(tmp_path: Path) -> None:
    port = free_port("127.0.64.1")
    rpc = free_port("127.0.0.1")
    config = config_in(tmp_path, addr=f"127.0.64.1:{port}", rpc_addr=f"127.0.0.1:{rpc}")
    async with AsyncExitStack() as stack:
        import asyncio

        await open_cluster(config, parts(config), stack, real_engine)
        _, writer = await asyncio.open_connection("127.0.0.1", rpc)
        writer.close()


def test_what_the_engine_is_told(tmp_path: Path) -> None:
    config = config_in(
        tmp_path,
        addr="10.0.0.1",
        advertise_addr="198.51.100.1:1234",
        label="blue",
        allow_remote_key_changes=False,
        secret_keys_old=(Secret(SECOND), Secret(FIRST)),
    )
    settings = gossip_settings(config, configured_keys(config), 5)
    assert (settings.name, str(settings.advertise)) == ("a", "198.51.100.1:1234")
    assert settings.keys == (FIRST, SECOND)
    assert (settings.label, settings.epoch, settings.allows_remote_keys) == ("blue", 5, False)
    assert node_name(replace(config, cluster=Cluster())) != ""


async def test_keys_that_were_changed_are_kept_and_a_new_configuration_is_taken(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    keeper = KeyKeeper(config)
    assert keeper.current == (FIRST,)
    keeper.changed((SECOND, FIRST))
    keeper.changed((SECOND,))
    await keeper.settle()
    assert KeyKeeper(config).current == (SECOND,)
    assert keeper.reload(config) is None
    changed = config_in(tmp_path, secret_key=Secret(SECOND), secret_keys_old=(Secret(FIRST),))
    assert keeper.reload(changed) == (SECOND, FIRST)


async def test_keys_that_cannot_be_kept_are_an_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    keeper = KeyKeeper(config_in(tmp_path, keyring_file=str(tmp_path / "file" / "keys")))
    keeper.changed((SECOND,))
    await keeper.settle()
    assert "cannot be kept" in caplog.text
    assert isinstance(keeper._file, KeyFile)
