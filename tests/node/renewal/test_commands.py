"""What an operator may ask of a node, on a world of fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from node.config import Config
from node.control import ControlRefused
from node.health import State
from node.renewal.commands import certificate_commands
from node.renewal.figures import read_renewal
from node.renewal.health import judge_renewal
from node.renewal.part import RenewalPart
from tests.support.issued import authority, key_pem, leaf, pem
from tests.support.renewing import CA, MAIL, World
from tls.ports import Failure, IssuingFailed
from tls.renewing.plan import Plan
from tls.vault.mirror import Mirror
from tls.wanted import Wanted


class Console:
    def __init__(self, nodes: int = 1, plan: Plan | None = None) -> None:
        self.world = World(nodes, plan)
        self.part = RenewalPart(Config())
        self.part.rounds, self.part.tools = self.world.first.rounds, self.world.first.tools
        self.part.vault = self.world.first.vault
        self._table = certificate_commands(self.part)

    async def ask(self, command: str, **arguments: object) -> Any:
        return await self._table[f"certs.{command}"](arguments)


@pytest.fixture
def console() -> Console:
    return Console()


async def test_a_node_with_files_says_so() -> None:
    with pytest.raises(ControlRefused, match="come from files"):
        await certificate_commands(RenewalPart(Config()))["certs.list"]({})


async def test_list_and_show(console: Console) -> None:
    await console.world.round()
    (line,) = (await console.ask("list"))["certificates"]
    assert (line["id"], line["state"], line["ca"]) == (MAIL.id, "ok", CA.directory)
    shown = await console.ask("show", name="mail.example.com")
    assert shown["generations"] == [line["fence"]]
    assert shown["attempts"][CA.directory]["failures"] == 0


@pytest.mark.parametrize("name", ["bücher.example.com", "XN--BCHER-KVA.example.com."])
async def test_names_are_understood_as_people_write_them(name: str) -> None:
    wanted = Wanted(("xn--bcher-kva.example.com",))
    console = Console(plan=Plan((wanted,), (CA,), digest="aa"))
    assert (await console.ask("show", name=name))["id"] == wanted.id
    assert (await console.ask("check", name=name))["names"] == list(wanted.names)
    with pytest.raises(ControlRefused, match="no certificate is configured"):
        await console.ask("show", name="no name at all")


async def test_show_has_the_words_of_the_ca(console: Console) -> None:
    console.world.ca.failing = [IssuingFailed(Failure.REFUSED, "CAA forbids it")]
    await console.world.round()
    shown = await console.ask("show")
    assert "CAA forbids it" in shown["attempts"][CA.directory]["last_failure"]


async def test_names_that_are_not_configured(console: Console) -> None:
    for command in ("show", "renew", "revoke", "export", "check"):
        with pytest.raises(ControlRefused, match=r"other\.example"):
            await console.ask(command, name="other.example")


async def test_renewing_by_hand(console: Console) -> None:
    assert (await console.ask("renew"))["result"] == "issued"
    assert (await console.ask("renew"))["result"] == "up to date"
    forced = await console.ask("renew", force=True)
    assert forced["done"]
    assert console.world.ca.certificates == 2


async def test_a_dry_run_publishes_nothing(console: Console) -> None:
    found = await console.ask("renew", dry_run=True)
    assert found["done"]
    assert console.world.ca.certificates == 1
    assert not console.world.first.shown
    assert not [key for key in console.world.bucket.objects if "/certs/" in key or "/orders/" in key]


async def test_renewing_while_another_node_orders() -> None:
    console = Console(nodes=2)
    await console.world.leases.take("certificates", "node-2", 120)
    found = await console.ask("renew")
    assert (found["done"], found["text"]) == (False, "node-2 is ordering")


async def test_revoking_orders_another(console: Console) -> None:
    await console.ask("renew")
    first = console.world.first.shown[MAIL.id]
    found = await console.ask("revoke", reason="key-compromise")
    assert found["done"]
    assert console.world.ca.revoked == [first.chain_pem]
    assert console.world.first.shown[MAIL.id].chain_pem != first.chain_pem
    with pytest.raises(ControlRefused, match="reason is one of"):
        await console.ask("revoke", reason="because")


async def test_a_pair_from_elsewhere(console: Console) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = pem(leaf(MAIL.names, key), authority()[0])
    found = await console.ask("import", chain=chain.decode(), key=key_pem(key).decode())
    assert found["done"]
    assert console.world.first.shown[MAIL.id].chain_pem == chain
    exported = await console.ask("export")
    assert (exported["chain"].encode(), exported["key"].encode()) == (chain, key_pem(key))


async def test_a_pair_that_does_not_fit_is_refused(console: Console) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    for chain, pair_key in (
        (pem(leaf(MAIL.names[:1], key), authority()[0]), key),
        (pem(leaf(MAIL.names, key), authority()[0]), other),
    ):
        with pytest.raises(ControlRefused):
            await console.ask("import", chain=chain.decode(), key=key_pem(pair_key).decode())
    assert not console.world.first.shown


async def test_new_keys_for_accounts(console: Console) -> None:
    assert (await console.ask("rollover"))["accounts"] == {CA.directory: "no account"}
    await console.ask("renew")
    assert (await console.ask("rollover"))["accounts"] == {CA.directory: "done"}
    account = await console.world.first.vault.account(CA.directory)
    assert account is not None
    assert account.key_json.startswith('{"new after": ')


async def test_a_check_tells_what_was_found(console: Console) -> None:
    console.world.first.remarks = ["port 80 is closed"]
    assert (await console.ask("check"))["remarks"] == ["port 80 is closed"]
    assert not console.world.first.answers.known  # the probe is gone


@pytest.mark.parametrize("name", ["", MAIL.id, MAIL.names[0], MAIL.names[0].upper() + "."])
async def test_what_is_checked_is_named_as_anywhere(console: Console, name: str) -> None:
    names = (await console.ask("check", name=name))["names"]
    assert names == ([MAIL.names[0]] if name[:4].lower() == MAIL.names[0][:4] else list(MAIL.names))
    with pytest.raises(ControlRefused, match="elsewhere") as refused:
        await console.ask("check", name="elsewhere.example.com")
    assert refused.value.code == "not_found"


async def test_what_is_away_is_said_and_may_be_tried_again(console: Console) -> None:
    await console.ask("renew")
    console.world.bucket.is_away = True
    with pytest.raises(ControlRefused, match="bucket") as refused:
        await console.ask("revoke")
    assert refused.value.code == "busy"


async def test_health_and_figures(console: Console) -> None:
    world = console.world
    await world.round()
    assert judge_renewal(console.part, world.clock.now()).state is State.OK
    readings = {(name, labels): value for name, labels, value in read_renewal(console.part)}
    labels = ("imap.example.com", "ecdsa-p256")
    assert readings["sora_certificate_generation", labels] == world.first.shown[MAIL.id].fence
    assert readings["sora_certificate_issued_total", (CA.directory,)] == 1
    world.bucket.is_away = True
    world.clock.pass_by(days=85)
    world.leases.is_away = True
    await world.round()
    finding = judge_renewal(console.part, world.clock.now())
    assert finding.state is State.DEGRADED
    assert "bucket" in finding.detail


async def test_certificates_that_begin_with_the_same_name_are_told_apart() -> None:
    both = (MAIL, Wanted((MAIL.names[0], "other.example.com")))
    console = Console(plan=Plan(both, (CA,), digest="aa"))
    await console.world.round()
    ends = {
        labels: value
        for name, labels, value in read_renewal(console.part)
        if name == "sora_certificate_not_after_timestamp_seconds"
    }
    assert set(ends) == {(f"imap.example.com ({each.id})", "ecdsa-p256") for each in both}
    latest = (console.world.clock.now() + console.world.ca.lifetime).timestamp()
    assert list(ends.values()) == [latest, latest]


async def test_a_mirror_that_fails_is_counted(console: Console, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    console.part.mirror = Mirror(tmp_path / "file")
    await console.part.mirror.put("tls/v1/x", b"y")
    readings = {(name, labels): value for name, labels, value in read_renewal(console.part)}
    assert readings["sora_certificate_mirror_failures_total", ("put",)] == 1


async def test_a_bucket_that_was_never_read_grows_old_from_the_start_on(console: Console) -> None:
    console.world.bucket.is_away = True
    await console.world.round()
    readings = {name: value for name, _, value in read_renewal(console.part)}
    assert readings["sora_certificate_synced_timestamp_seconds"] == console.part.since.timestamp()


async def test_objects_of_another_key_make_the_node_unready(console: Console) -> None:
    assert console.part.vault is not None
    console.part.vault.sealed_elsewhere.add(MAIL.id)
    finding = judge_renewal(console.part, console.world.clock.now())
    assert finding.state is State.DOWN
    assert "encryption_key" in finding.detail
