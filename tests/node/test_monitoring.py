"""The figures and the health of a whole node, asked for over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from node.app import Node
from node.checks import Checker
from node.config import Config, load
from node.control import ask, control_path
from node.metrics.catalogue import FAMILIES
from protocols.errors import AuthenticationFailed, AuthenticationUnavailable
from protocols.ports import Identity, Peer
from storage.errors import Unavailable
from storage.model import AccountId
from storage.postgres.settings import DatabaseSettings
from tests.node.test_app import ADDRESS, PASSWORD, Imap, configure, deliver, port, wait_until_stored
from tests.support.corpus import messages

METRICS = """
[[servers]]
type = "metrics"
name = "figures"
addr = "127.0.0.1:0"
"""
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def with_metrics(config: Config, more: str = METRICS) -> Config:
    loaded = load(more, source="test", environment={}, read_file=lambda name: Path(name).read_text())
    assert loaded.config is not None, loaded.problems
    return replace(config, servers=(*config.servers, *loaded.config.servers))


@pytest_asyncio.fixture
async def node(tmp_path: Path, pg_settings: DatabaseSettings) -> AsyncIterator[Node]:
    running = Node(with_metrics(configure(tmp_path, pg_settings)))
    await running.start()
    await running.ensure_account(ADDRESS, PASSWORD)
    yield running
    await running.stop()


async def get(node: Node, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port(node, "figures"), timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body

    return await asyncio.to_thread(ask)


async def ready(node: Node) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    status, body = await get(node, "/readyz")
    report = json.loads(body)
    return status, report, {each["name"]: each for each in report["components"]}


async def scrape(node: Node) -> Samples:
    status, page = await get(node, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Of all samples that have these labels."""
    found = [v for (n, have), v in samples.items() if n == name and labels.items() <= dict(have).items()]
    assert found, (name, labels)
    return sum(found)


async def test_what_happened_is_counted(node: Node) -> None:
    sent = messages(1, 3, to=ADDRESS)
    await deliver(node, *sent)
    await wait_until_stored(node)
    client = await Imap.open(node)
    assert b" NO " in await client.command(f"LOGIN {ADDRESS} wrong")
    await client.login()
    await client.command("SELECT INBOX")
    await client.command("FETCH 1:* BODY.PEEK[]")
    seen = await scrape(node)
    assert value(seen, "sora_connections", server="imap") == 1
    assert value(seen, "sora_sessions", server="imap") == 1
    assert value(seen, "sora_connections", server="lmtp") == 0
    assert value(seen, "sora_connections_accepted_total", server="lmtp") == 1
    assert value(seen, "sora_deliveries_total", result="2xx") == 3
    assert value(seen, "sora_message_size_bytes_sum", protocol="lmtp") >= sum(map(len, sent))
    assert value(seen, "sora_authentications_total", protocol="imap", result="failed") == 1
    assert value(seen, "sora_authentications_total", protocol="imap", result="ok") == 1
    assert value(seen, "sora_password_verifications_total", result="match") == 1
    assert value(seen, "sora_password_verifications_total", result="mismatch") == 1
    assert value(seen, "sora_commands_total", command="LOGIN", status="no") == 1
    assert value(seen, "sora_command_duration_seconds_count", protocol="imap", command="LOGIN") == 2
    assert value(seen, "sora_transferred_bytes_total", direction="out", server="imap") > sum(map(len, sent))
    assert value(seen, "sora_bodies_opened_total") >= 3  # reading ahead counts too
    assert value(seen, "sora_uploads_total") == 3
    assert value(seen, "sora_mailbox_views") == 1
    assert value(seen, "sora_database_connections") >= 1
    assert value(seen, "sora_process_resident_bytes", process="main") > 1e7
    client.writer.close()
    while node.listeners[0].live:
        await asyncio.sleep(0)
    seen = await scrape(node)
    assert value(seen, "sora_connections", server="imap") == 0
    assert value(seen, "sora_sessions", server="imap") == 0


async def test_only_what_the_catalogue_has_is_told_and_gauges_are_not_negative(node: Node) -> None:
    await node.monitoring.checker.refresh(0.0)
    seen = await scrape(node)
    known = {family.name: family for family in FAMILIES}
    for (name, labels), number in seen.items():
        stem = name if name in known else name.rpartition("_")[0]
        expected = {*known[stem].all_labels, *({"le"} if name.endswith("_bucket") else ())}
        assert set(dict(labels)) == expected, name
        assert number >= 0, (name, labels)


async def test_the_number_of_series_does_not_grow_with_users_or_addresses(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", logger="sora")
    client = await Imap.open(node)
    await client.login()
    await client.command("NOOP")
    authenticator = node.doors.authenticator

    async def refuse(_address: str) -> None:
        raise Unavailable("not now")

    node.core.accounts.login = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(AuthenticationFailed):
        await authenticator.authenticate("imap", Peer("192.0.2.1", 1), "x", b"")
    with pytest.raises(AuthenticationUnavailable):
        await authenticator.authenticate("imap", Peer("192.0.2.1", 1), "y@example.test", b"x")
    before = set(await scrape(node))
    for n in range(10_000):
        peer = Peer(f"2001:db8::{n:x}", n)
        with pytest.raises(AuthenticationUnavailable):
            await authenticator.authenticate("imap", peer, f"user{n}@example{n}.test", b"x")
        leave = await node.sessions.arrive("imap", peer.ip)
        assert leave is not None
        if n % 2:
            leave()
    (entry,) = node.sessions
    for n in range(90):
        await node.sessions.logged_in(
            entry.connection.session_id, Identity(AccountId(n), f"user{n}@example.test", "x@example.test")
        )
        await client.command(f"XCOMMAND{n}")
    assert {key for key in await scrape(node) if dict(key[1]).get("command") != "UNKNOWN"} == before
    client.writer.close()


COMPONENTS = {"database", "object_store", "staging", "certificates", "disks", "workers", "log"}


async def test_ready(node: Node) -> None:
    status, report, components = await ready(node)
    assert status == 200
    assert report["node"] == "mail.example.test"
    assert set(components) == COMPONENTS
    assert components["database"]["critical"]
    disks = components.pop("disks")  # that of the machine may be nearly full
    assert "free" in disks["detail"]
    assert {each["status"] for each in components.values()} == {"ok"}
    assert await get(node, "/healthz") == (200, "ok\n")


async def test_not_ready_while_postgresql_is_away(
    node: Node, pg_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.checks.FRESH_S", 0.0)
    write = pg_settings.write
    operator = await asyncpg.connect(
        host=write.hosts[0][0],
        port=write.hosts[0][1],
        user=write.user,
        password=write.password,
        database="postgres",
    )
    name = write.database
    await operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    try:
        status, report, components = await ready(node)
        assert (status, report["status"]) == (503, "down")
        assert components["database"]["status"] == "down"
        assert components["staging"]["status"] == "down"
        assert components["object_store"]["status"] == "ok"
        assert "sora_staging_bodies" not in {key[0] for key in await scrape(node)}, "nobody knows"
        assert (await get(node, "/healthz"))[0] == 200
    finally:
        await operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await operator.close()
    status, report, components = await ready(node)
    assert components["database"]["status"] == "ok"
    assert status == 200


async def test_degraded_while_the_object_store_is_away(tmp_path: Path, pg_settings: DatabaseSettings) -> None:
    config = with_metrics(configure(tmp_path, pg_settings))
    away = replace(
        config.s3,
        driver="s3",
        endpoint="127.0.0.1:1",
        disable_tls=True,
        bucket="mail",
        retries=0,
        timeout_s=2.0,
    )
    node = Node(replace(config, s3=away))
    await node.start()
    try:
        status, report, components = await ready(node)
        assert (status, report["status"]) == (200, "degraded")
        assert components["object_store"]["status"] == "down"
        assert components["object_store"]["detail"]
        assert "secret" not in json.dumps(report).lower()
        seen = await scrape(node)
        assert value(seen, "sora_component_state", component="object_store") == 2
        assert value(seen, "sora_component_state", component="database") == 0
    finally:
        await node.stop()


async def test_the_control_socket_tells_the_same(node: Node) -> None:
    told = await asyncio.to_thread(ask, control_path(node.config), "health")
    _, report, _ = await ready(node)
    assert told["components"] == report["components"]


async def test_asking_often_costs_no_more(node: Node) -> None:
    await ready(node)
    before = node.core.database.round_trips
    for _ in range(20):
        await ready(node)
    assert node.core.database.round_trips - before <= 4  # of the checker's own rhythm, at most twice
    assert isinstance(node.monitoring.checker, Checker)


async def test_tls_and_the_key(tmp_path: Path, pg_settings: DatabaseSettings) -> None:
    more = METRICS + 'tls = true\napi_key = "0123456789abcdef"\n'
    config = with_metrics(
        configure(tmp_path, pg_settings),
        more + f'tls_cert_file = "{tmp_path}/cert.pem"\ntls_key_file = "{tmp_path}/key.pem"\n',
    )
    node = Node(config)
    await node.start()
    try:
        import ssl
        import urllib.error
        import urllib.request

        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        url = f"https://localhost:{port(node, 'figures')}/metrics"

        def ask(key: str) -> int:
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
            try:
                with urllib.request.urlopen(request, context=context, timeout=60) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert await asyncio.to_thread(ask, "0123456789abcdef") == 200
        assert await asyncio.to_thread(ask, "0123456789abcdeX") == 401
    finally:
        await node.stop()
