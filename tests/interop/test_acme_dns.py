"""DNS-01 with a real name server that takes signed updates, and with a program of the operator's."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from tests.support.named import Named
from tests.support.pebble import Pebble, PebbleOptions, require_pebble
from tests.support.ports import free_port
from tls.acme.dns01 import DnsFailed, DnsProvider
from tls.acme.exechook import ExecHook
from tls.acme.propagation import CheckedDns, Propagation, PropagationSettings
from tls.acme.rfc2136 import Rfc2136
from tls.ports import Failure, IssuingFailed
from tls.wanted import Wanted

from .acme import Ordering, authority, verify

WILD = Wanted(("*.example.test", "example.test"))


@pytest.fixture(scope="module")
def named() -> Iterator[Named]:
    with Named() as named:
        yield named


@pytest.fixture(scope="module")
def ca(named: Named) -> Iterator[Pebble]:
    require_pebble()
    with Pebble(PebbleOptions(dns_server=named.address)) as ca:
        yield ca


def at(named: Named, timeout_s: float = 60.0) -> Propagation:
    return Propagation(PropagationSettings(resolver=named.ip, port=named.port, timeout_s=timeout_s))


async def test_a_wildcard_and_its_name_share_a_record(ca: Pebble, named: Named) -> None:
    acme = authority(ca)
    dns = CheckedDns(Rfc2136(named.settings()), at(named))
    ordering = Ordering(WILD, dns=dns)
    issued = await acme.issue(await acme.account(None), WILD, ordering.steps(), use_dns=True)
    verify(issued.chain_pem, ca.root_pem())
    assert ordering.done.count("publish _acme-challenge.example.test") == 2
    assert named.texts("_acme-challenge.example.test") == set()


def test_the_loop_of_a_node(ca: Pebble, named: Named) -> None:
    """uvloop starts programs and takes calls of threads in its own way."""

    async def order() -> bytes:
        acme, wanted = authority(ca), Wanted(("*.uv.example.test", "uv.example.test"))
        ordering = Ordering(wanted, dns=CheckedDns(Rfc2136(named.settings()), at(named)))
        issued = await acme.issue(await acme.account(None), wanted, ordering.steps(), use_dns=True)
        with pytest.raises(DnsFailed, match=r"not done after 0\.3 s"):
            await ExecHook(("/bin/sh", "-c", "sleep 600 & sleep 600"), 0.3).publish("a.test", "value")
        return issued.chain_pem

    verify(uvloop.run(order()), ca.root_pem())


async def test_many_names_wait_for_name_servers_side_by_side(ca: Pebble, named: Named) -> None:
    """No record is published before the last is asked for."""
    provider, name = Rfc2136(named.settings()), "many.example.test"
    wanted = Wanted(tuple(sorted(f"{letter}.{name}" for letter in "abcdefgh")))
    all_are_asked_for = asyncio.Barrier(8)

    class Slow:
        async def publish(self, name: str, value: str) -> None:
            async with asyncio.timeout(60):
                await all_are_asked_for.wait()
            await provider.publish(name, value)

        async def withdraw(self, name: str, value: str) -> None:
            await provider.withdraw(name, value)

    acme = authority(ca)
    ordering = Ordering(wanted, dns=CheckedDns(Slow(), at(named)))
    issued = await acme.issue(await acme.account(None), wanted, ordering.steps(), use_dns=True)
    verify(issued.chain_pem, ca.root_pem())


async def test_a_record_that_does_not_become_visible_is_withdrawn(ca: Pebble, named: Named) -> None:
    wanted = Wanted(("invisible.example.test",))
    elsewhere = Propagation(PropagationSettings(("127.0.0.77",), port=named.port, timeout_s=0.1))
    ordering = Ordering(wanted, dns=CheckedDns(Rfc2136(named.settings()), elsewhere))
    acme = authority(ca)
    with pytest.raises(IssuingFailed) as failed:
        await acme.issue(await acme.account(None), wanted, ordering.steps(), use_dns=True)
    assert failed.value.failure is Failure.UNPUBLISHED
    assert failed.value.names == wanted.names
    assert named.texts("_acme-challenge.invisible.example.test") == set()


async def test_values_live_side_by_side_and_go_alone(named: Named) -> None:
    dns, name = Rfc2136(named.settings(zone=named.zone)), "_acme-challenge.side.example.test"
    for value in ("one", "two", "two"):
        await dns.publish(name, value)
    assert named.texts(name) == {"one", "two"}
    await dns.withdraw(name, "one")
    await dns.withdraw(name, "never")
    assert named.texts(name) == {"two"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"key_secret": "d3Jvbmcgd3Jvbmcgd3Jvbmc="}, "BADSIG"),
        ({"key_name": "stranger"}, "BADKEY"),
        ({"key_name": "", "key_secret": ""}, "REFUSED"),
        ({"zone": "other.test"}, "NOTAUTH|NOTZONE|not in zone"),
    ],
    ids=["wrong secret", "unknown key", "no key", "foreign zone"],
)
async def test_what_the_name_server_refuses_is_said(named: Named, more: dict[str, str], words: str) -> None:
    with pytest.raises(DnsFailed, match=words):
        await Rfc2136(named.settings(**more)).publish("_acme-challenge.no.example.test", "value")


async def test_a_name_server_that_is_not_there(named: Named) -> None:
    started = time.monotonic()
    dns = Rfc2136(named.settings(port=free_port(), timeout_s=3.0))
    with pytest.raises(DnsFailed):
        await dns.publish("_acme-challenge.example.test", "value")
    assert time.monotonic() - started < 120


async def test_the_key_is_no_argument_of_any_process(named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []
    real = asyncio.create_subprocess_exec

    async def spy(*command: str, **more: object) -> asyncio.subprocess.Process:
        seen.append((*command, str(more.get("env"))))
        return await real(*command, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    settings = named.settings()
    await Rfc2136(settings).publish("_acme-challenge.key.example.test", "value")
    assert seen
    assert all(settings.key_secret not in str(part) for command in seen for part in command)
    assert settings.key_secret not in repr(settings)


async def test_authoritative_servers_are_found_and_waited_for(named: Named) -> None:
    name = "_acme-challenge.deep.down.example.test"
    assert await at(named).servers(name) == [named.ip]
    waiting = asyncio.create_task(at(named).wait(name, "late"))
    await Rfc2136(named.settings()).publish(name, "early")
    await asyncio.sleep(0)
    assert not waiting.done()
    await Rfc2136(named.settings()).publish(name, "late")
    await waiting


async def test_a_record_that_never_appears_names_the_servers(named: Named) -> None:
    with pytest.raises(DnsFailed, match=r"127\.0\.0\.1 does not have it"):
        await at(named, timeout_s=0.5).wait("_acme-challenge.never.example.test", "value")


async def test_a_silent_server_beside_an_answering_one(named: Named) -> None:
    """Nothing listens at the other: it is not waited for, but alone it is not enough."""
    name = "_acme-challenge.two.example.test"
    await Rfc2136(named.settings()).publish(name, "value")
    both = PropagationSettings((named.ip, "127.0.0.77"), port=named.port, timeout_s=20)
    await Propagation(both).wait(name, "value")
    silent = ("127.0.0.77",)
    with pytest.raises(DnsFailed, match="does not answer"):
        await Propagation(PropagationSettings(silent, port=named.port, timeout_s=0.1)).wait(name, "value")


# --- a program of the operator's ----------------------------------------------------------------


def hook(tmp_path: Path, body: str, timeout_s: float = 20.0) -> ExecHook:
    script = tmp_path / "hook.py"
    script.write_text(f"import os, sys, time\n{body}")
    return ExecHook((sys.executable, str(script)), timeout_s)


async def test_an_order_by_a_hook(ca: Pebble, named: Named, tmp_path: Path) -> None:
    """The hook calls nsupdate itself, as an operator's would."""
    settings = named.settings()
    dns = hook(
        tmp_path,
        f"""
import subprocess
verb = {{"publish": "add", "withdraw": "delete"}}[os.environ["SORA_DNS_ACTION"]]
ttl = "60" if verb == "add" else ""
script = f'''server {named.ip} {named.port}
key {settings.key_algorithm}:{settings.key_name} {settings.key_secret}
update {{verb}} {{os.environ["SORA_DNS_NAME"]}}. {{ttl}} IN TXT "{{os.environ["SORA_DNS_VALUE"]}}"
send
'''
sys.exit(subprocess.run(["nsupdate"], input=script.encode()).returncode)
""",
    )
    acme = authority(ca)
    wanted = Wanted(("hook.example.test",))
    ordering = Ordering(wanted, dns=dns)
    issued = await acme.issue(await acme.account(None), wanted, ordering.steps(), use_dns=True)
    verify(issued.chain_pem, ca.root_pem())
    assert named.texts("_acme-challenge.hook.example.test") == set()


async def test_what_a_hook_says_is_logged_and_its_failure_ends_the_order(
    ca: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dns: DnsProvider = hook(
        tmp_path, "print('asked', os.environ['SORA_DNS_NAME'])\nsys.exit('no\\x1b[31m credit')"
    )
    acme = authority(ca)
    wanted = Wanted(("*.fail.example.test",))
    with caplog.at_level(logging.INFO, "sora.tls.dns"), pytest.raises(IssuingFailed) as failed:
        await acme.issue(await acme.account(None), wanted, Ordering(wanted, dns=dns).steps())
    assert failed.value.failure is Failure.UNPUBLISHED
    assert "no [31m credit" in failed.value.text
    assert "asked _acme-challenge.fail.example.test" in caplog.text


async def test_a_hook_sees_nothing_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORA_CLUSTER_SECRET", "secret")
    dns = hook(tmp_path, "sys.exit(' '.join(sorted(os.environ)))")
    with pytest.raises(DnsFailed) as failed:
        await dns.publish("a.test", "value")
    assert "SORA_DNS_NAME" in str(failed.value)
    assert "SORA_CLUSTER_SECRET" not in str(failed.value)


async def test_a_hook_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    body = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(started)!r} + ".new", "w").write(str(child.pid))
os.rename({str(started)!r} + ".new", {str(started)!r})
time.sleep(600)
"""
    for patience_s in (2.0, 20.0, 60.0):  # more where a program takes long to start
        with pytest.raises(DnsFailed, match="not done"):
            await hook(tmp_path, body, timeout_s=patience_s).publish("a.test", "value")
        if started.exists():
            break
    child = Path(f"/proc/{started.read_text()}/stat")
    deadline = time.monotonic() + 60
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "what the hook started lives on"
        await asyncio.sleep(0.05)


async def test_a_hook_that_does_not_exist() -> None:
    with pytest.raises(DnsFailed, match="/nowhere/hook cannot be started"):
        await ExecHook(("/nowhere/hook",)).publish("a.test", "value")
