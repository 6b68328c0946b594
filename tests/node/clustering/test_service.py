"""All bridges together: reloads, time to live, and an engine that was started anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.effects import Joined, KeysChanged, QueryAsked, UserEvent
from cluster.facts import Kind
from node.clustering import directory
from node.clustering.counts import FLUSH_S, TTL_S
from node.clustering.life import KeyKeeper
from node.config import Config
from node.config.merge import merge
from node.config.secret import Secret
from node.config.services import Cluster, RateLimitSync
from node.ratelimit import parse_subject
from node.reload import takes_effect
from node.sessions import SessionLimits

from .cluster import SERVER, Member, Nodes

BAD = "198.51.100.7"
SUBJECT = parse_subject(BAD, 64)
FIRST, SECOND = bytes([1] * 32), bytes([2] * 32)


def reload(member: Member, **cluster: object) -> list[str]:
    config = replace(member.config, cluster=replace(member.config.cluster, **cluster))  # type: ignore[arg-type]
    return asyncio.run(member.clustering.reload(config))


def test_a_reload_switches_what_is_shared(nodes: Nodes) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    assert reload(first, rate_limit_sync=RateLimitSync(enabled=False)) == []
    first.guards.add(SUBJECT, lasts_s=60, reason="")
    first.fail("198.51.100.8", 4)
    assert not second.refuses(BAD)
    assert second.counted("198.51.100.8") == (0, 0)
    reload(first, rate_limit_sync=RateLimitSync())
    assert second.refuses(BAD)


def test_a_node_that_shares_again_hears_what_was_told_meanwhile(nodes: Nodes) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    reload(first, rate_limit_sync=RateLimitSync(enabled=False))
    second.guards.add(SUBJECT, lasts_s=3600, reason="")
    second.fail("198.51.100.8", 4)
    nodes.pass_by(60)
    assert not first.refuses(BAD)
    reload(first, rate_limit_sync=RateLimitSync())
    assert first.refuses(BAD)
    assert first.counted("198.51.100.8") == (0, 4)
    nodes.pass_by(3541)
    assert not first.refuses(BAD)


def test_a_reload_with_another_secret_uses_it(nodes: Nodes) -> None:
    member = nodes.add("a")
    member.clustering.key_keeper = KeyKeeper(Config(cluster=Cluster(secret_key=Secret(FIRST))))
    reload(member, secret_key=Secret(SECOND), secret_keys_old=(Secret(FIRST),))
    assert member.clustering.keys == (SECOND, FIRST)
    assert member.clustering.roster.events()[-1].kind == "keys"


def test_a_reload_that_changes_the_configuration_is_no_drift_but_with_who_was_not_reloaded(
    nodes: Nodes,
) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    assert first.clustering.drifting() == {}
    reload(first, max_event_queue_size=7)
    assert first.clustering.drifting() == {"b": ["cluster"]}
    assert second.clustering.drifting() == {"a": ["cluster"]}
    reload(second, max_event_queue_size=7)
    assert first.clustering.drifting() == second.clustering.drifting() == {}


def test_options_of_the_cluster_take_effect_without_a_restart() -> None:
    running = Config()
    wanted = Config(
        cluster=Cluster(
            peers=("10.0.0.2",), secret_key=Secret(FIRST), rate_limit_sync=RateLimitSync(sync_blocks=False)
        )
    )
    merged = merge(running, wanted, takes_effect)
    assert merged.config.cluster == wanted.cluster
    assert set(merged.taken) == {
        "cluster.peers",
        "cluster.secret_key",
        "cluster.rate_limit_sync.sync_blocks",
    }


def test_what_goes_on_is_told_again_before_its_time_is_over(nodes: Nodes) -> None:
    first, second = nodes.add("a", limits=SessionLimits(per_user=5)), nodes.add("b")
    first.log_in("1", 7)
    nodes.pass_by(FLUSH_S)
    for _ in range(int(directory.TTL_S * 3 / TTL_S) * 4):
        nodes.pass_by(TTL_S / 4)
        first.clustering.counts.reconcile()
        first.clustering.directory.refresh()
    assert second.sessions.elsewhere((SERVER, "user", 7)) == 1
    assert second.clustering.directory.nodes_of(7) == {"a"}


def test_refreshing_is_spread_over_time(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "REFRESHED_AT_ONCE", 10)
    first, _ = nodes.add("a"), nodes.add("b")
    for account in range(25):
        first.log_in(str(account), account)
    puts: list[int] = []
    first.gossip.put = lambda _kind, entries, _ttl: puts.append(len(entries))  # type: ignore[method-assign, assignment]
    first.clustering.directory.refresh()
    nodes.pass_by(directory.TTL_S / 2)
    for _ in range(5):
        first.clustering.directory.refresh()
    assert puts == [10, 10, 5]


def test_an_engine_that_was_started_anew_is_told_everything_again(nodes: Nodes) -> None:
    first, second = nodes.add("a", limits=SessionLimits(per_user=1)), nodes.add("b")
    first.guards.add(SUBJECT, lasts_s=600, reason="")
    first.log_in("1", 7)
    nodes.pass_by(FLUSH_S)
    told: dict[Kind, int] = {}

    def put(kind: Kind, entries: dict[bytes, bytes], _ttl_s: float) -> None:
        told[kind] = told.get(kind, 0) + len(entries)

    first.gossip.put = put  # type: ignore[method-assign, assignment]
    first.clustering.restore()
    assert told == {Kind.BLOCK: 1, Kind.CONNECTIONS: 1, Kind.SESSIONS: 1, Kind.NODE: 2}
    assert second.refuses(BAD)


async def test_the_loop_flushes_and_ends(nodes: Nodes) -> None:
    first = await asyncio.to_thread(nodes.add, "a")
    second = await asyncio.to_thread(nodes.add, "b")
    first.fail(BAD, 3)
    assert second.counted(BAD) == (0, 2)
    stop = asyncio.Event()
    running = asyncio.create_task(first.clustering.run(stop))
    async with asyncio.timeout(60):
        while second.counted(BAD) != (0, 3):
            await asyncio.sleep(0)
        stop.set()
        await running


def test_joins_are_logged_once_until_they_change(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sora.cluster")
    member = nodes.add("a")
    from cluster.address import Address

    for error in ("no answer", "no answer", "", "", "no answer"):
        member.clustering.heard(Joined(Address("10.0.0.9", 7946), error))
    lines = [record.getMessage() for record in caplog.records if "joining" in record.getMessage()]
    assert lines == [f"joining 10.0.0.9:7946: {outcome}" for outcome in ("no answer", "done", "no answer")]
    assert not member.clustering.has_joined


def test_questions_nobody_has_an_answer_to_are_left(nodes: Nodes) -> None:
    member = nodes.add("a")
    member.clustering.heard(QueryAsked(5, "deploy", b"", "agent", 0.0))
    member.clustering.heard(UserEvent(1, "deploy", b"", may_coalesce=False))
    assert [each.detail for each in member.clustering.roster.events() if each.kind == "event"] == ["deploy"]


def test_changed_keys_go_to_who_keeps_them(nodes: Nodes) -> None:
    member = nodes.add("a")
    kept: list[tuple[bytes, ...]] = []
    member.clustering.keys_changed = kept.append
    member.clustering.heard(KeysChanged((SECOND, FIRST)))
    assert kept == [(SECOND, FIRST)]
