"""What nobody asks for any more goes when it has long been over, and nothing before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.renewing import CA, MAIL, OTHER_CA, World
from tls.ports import Journal
from tls.renewing.hold import LEASE
from tls.renewing.plan import Plan
from tls.renewing.rounds import SWEEP_EVERY_S
from tls.vault import relics
from tls.vault.layout import ca_id, digest
from tls.vault.sealing import NONCE_BYTES, Kind, Label, Seals
from tls.wanted import Wanted

OTHER = Wanted(("shop.example.org",))
LIFE_DAYS, GRACE_DAYS = 90, 30


async def replanned(world: World, *wanted: Wanted) -> None:
    world.plan = replace(world.plan, wanted=wanted)
    for node in world.nodes:
        node.rounds.replan(world.plan)
    await world.round()


async def left_behind(nodes: int = 2) -> World:
    """A certificate for MAIL was issued, then only OTHER is asked for."""
    world = World(nodes=nodes)
    await world.round()
    await replanned(world, OTHER)
    assert world.ca.certificates == 2
    return world


def held(world: World, wanted: Wanted = MAIL) -> list[int]:
    """Objects of a certificate in the bucket, and in each node's mirror."""
    places = [world.bucket, *(node.mirror for node in world.nodes)]
    return [sum(f"/certs/{wanted.id}/" in key for key in place.objects) for place in places]


async def test_it_goes_a_month_after_it_has_expired_and_the_log_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "sora.tls.renewing")
    world = await left_behind()
    accounts = [key for key in world.bucket.objects if "/account/" in key]
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS - 1)
    await world.round()
    assert held(world) == [1, 1, 1]
    world.clock.pass_by(days=1)
    await world.round()
    assert held(world) == [0, 0, 0]
    assert all(held(world, OTHER))
    assert all(key in world.bucket.objects for key in accounts)
    told = [each for each in caplog.messages if "removed from" in each]
    assert len(told) == 3
    assert sum("from the bucket" in each for each in told) == 1
    assert all(name in each for each in told for name in MAIL.names)


async def test_names_that_come_back_in_time_find_their_certificate() -> None:
    world = await left_behind()
    issued = world.ca.orders[0].issued
    for _ in range(50):
        world.clock.pass_by(days=1)
        await world.round()
    ordered = world.ca.certificates
    await replanned(world, MAIL, OTHER)
    assert [node.shown[MAIL.id].chain_pem for node in world.nodes] == [issued] * 2
    assert world.ca.certificates == ordered
    world.clock.pass_by(days=15)
    await world.round()
    assert issued in world.ca.replaced


async def test_an_expired_one_is_still_found_within_the_grace() -> None:
    world = await left_behind()
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS - 1)
    await world.round()
    world.first.start()
    await world.first.tools.shelf.load((MAIL,))
    assert world.first.shown[MAIL.id].chain_pem == world.ca.orders[0].issued


@pytest.mark.parametrize("days_behind", [LIFE_DAYS, 3650])
async def test_a_clock_that_is_ahead_of_the_databases_removes_nothing(days_behind: int) -> None:
    world = await left_behind()
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS + 1)
    world.leases.skew = -timedelta(days=days_behind)
    await world.round()
    assert held(world) == [1, 1, 1]


async def test_only_the_leader_clears_the_bucket() -> None:
    world = await left_behind()
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS)
    await world.nodes[1].rounds.round()
    assert held(world) == [1, 1, 0]


async def test_nothing_goes_while_another_has_the_lease_or_the_database_is_away() -> None:
    world = await left_behind(nodes=1)
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS)
    assert await world.leases.take(LEASE, "another", 600.0) is not None
    await world.round()
    assert held(world) == [1, 0], "the mirror is the node's own"
    world.leases.is_away = True
    world.clock.pass_by(hours=1)
    await world.round()
    assert held(world) == [1, 0]
    world.leases.is_away = False
    world.clock.pass_by(hours=1)
    await world.round()
    assert held(world) == [0, 0]


async def test_who_loses_the_lease_on_the_way_stops() -> None:
    world = World(plan=Plan((MAIL, OTHER), (CA,)))
    await world.round()
    await replanned(world, Wanted(("new.example.com",)))
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS)
    deleted, delete = [], world.bucket.delete

    async def and_lose(key: str) -> None:
        await delete(key)
        if "/certs/" in key:
            deleted.append(key)
            world.leases.away.add(world.first.name)
            world.clock.pass_by(hours=1)  # longer than a lease lasts

    world.bucket.delete = and_lose  # type: ignore[method-assign]
    await world.round()
    assert len(deleted) == 1
    assert held(world)[0] + held(world, OTHER)[0] == 1


async def test_a_bucket_that_is_away_ends_nothing() -> None:
    world = await left_behind(nodes=1)
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS)
    world.bucket.refuses = "/certs/"
    await world.round()
    assert held(world)[0] == 1
    world.bucket.refuses = ""
    world.clock.pass_by(seconds=SWEEP_EVERY_S)
    await world.round()
    assert held(world)[0] == 0


async def test_what_our_keys_do_not_open_stays() -> None:
    world = World()
    sealed = Seals([b"of another cluster"]).seal(
        Label(Kind.CERTIFICATE, ca_id(CA.directory), OTHER.id, 5), b"{}", bytes(NONCE_BYTES)
    )
    key = f"tls/v1/{ca_id(CA.directory)}/certs/{OTHER.id}/{5:012}-{digest(sealed)}.bin"
    world.bucket.objects |= {key: sealed, "tls/v1/somebody/else": b"x"}
    world.clock.pass_by(days=1000)
    await world.round()
    assert {key, "tls/v1/somebody/else"} <= world.bucket.objects.keys()


async def test_orders_that_nobody_goes_on_with_go_and_those_that_are_asked_for_stay() -> None:
    world = World()
    await world.round()
    world.clock.pass_by(days=61)
    for wanted in (MAIL, OTHER):
        begun = world.clock.now() - timedelta(days=GRACE_DAYS)
        journal = Journal(wanted, 7, CA.directory, "https://ca.example/order/1", b"csr", b"key", begun)
        await world.first.vault.put_journal(journal)
    world.ca.at = refuse
    await world.round()
    assert await world.first.vault.journal(OTHER.id) is None
    assert await world.first.vault.journal(MAIL.id) is not None


async def refuse(_step: str) -> None:
    raise TimeoutError


async def test_of_an_authority_that_is_configured_no_more() -> None:
    world = World(plan=Plan((MAIL,), (OTHER_CA, CA)))
    await world.round()
    world.plan = Plan((MAIL,), (CA,))
    world.first.start()
    await world.round()
    assert held(world)[0] == 2
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS)
    await world.round()
    left = [key for key in world.bucket.objects if "/certs/" in key]
    assert left
    assert all(key.startswith(f"tls/v1/{ca_id(CA.directory)}/") for key in left)


async def test_a_look_reads_a_few_and_comes_round_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relics, "READS_MAX", 2)
    world = World(plan=Plan(tuple(Wanted((f"n{number}.example.com",)) for number in range(5)), (CA,)))
    await world.round()
    await replanned(world, OTHER)
    world.clock.pass_by(days=LIFE_DAYS + GRACE_DAYS)
    found = relics.Relics(world.bucket, world.first.vault._opener)
    asked = {(ca_id(CA.directory), OTHER.id)}
    assert [len(await found.find(asked, world.clock.now())) for _ in range(4)] == [2, 4, 5, 5]
