"""What is shown while a certificate that is asked for is missing: one that was issued for another set of the
same names, over a reload, a restart and an empty disk."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.renewing import MAIL, World
from tls.ports import Failure, IssuingFailed
from tls.vault.memory import MemoryBucket
from tls.wanted import Wanted

MORE = Wanted((*MAIL.names, "new.example.com"))
NOWHERE = IssuingFailed(Failure.VALIDATION, "no such name", names=["new.example.com"])


async def asked_for_more(wanted: Wanted = MORE) -> World:
    """All nodes have a certificate and are told of a name that no CA can validate."""
    world = World(nodes=2)
    await world.round()
    world.ca.failing = [NOWHERE] * 9
    world.plan = replace(world.plan, wanted=(wanted,))
    for node in world.nodes:
        node.rounds.replan(world.plan)
    await world.round()
    return world


async def test_a_name_that_cannot_be_validated_takes_nothing_from_the_others() -> None:
    world = await asked_for_more()
    before = world.ca.orders[0].issued
    for node in world.nodes:
        assert [each.chain_pem for each in node.shown.values()] == [before]
    world.first.start()
    await world.first.tools.shelf.load(world.plan.wanted)
    assert list(world.first.shown) == [MAIL.id], "from the mirror"
    world.first.mirror = MemoryBucket()
    world.first.start()
    await world.first.tools.shelf.sync(world.plan.wanted)
    assert list(world.first.shown) == [MAIL.id], "from the bucket"
    assert [each.generation.wanted_id for each in world.first.tools.shelf.standing_in(MORE)] == [MAIL.id]


@pytest.mark.parametrize("restarts", [False, True])
async def test_it_goes_when_the_one_that_is_asked_for_is_there(restarts: bool) -> None:
    world = await asked_for_more()
    if restarts:
        world.first.start()
        await world.first.tools.shelf.load(world.plan.wanted)
    world.ca.failing.clear()
    world.clock.pass_by(days=1)
    await world.round()
    assert list(world.first.shown) == [MORE.id]
    assert world.first.tools.shelf.standins == {}


async def test_a_name_that_was_added_and_is_removed_again_costs_no_order() -> None:
    world = await asked_for_more()
    orders = len(world.ca.orders)
    world.first.rounds.replan(replace(world.plan, wanted=(MAIL,)))
    await world.first.rounds.round()
    assert len(world.ca.orders) == orders
    assert list(world.first.tools.shelf.copies) == list(world.first.shown) == [MAIL.id]


async def test_one_without_a_name_that_is_missing_is_not_shown() -> None:
    world = await asked_for_more(Wanted(("other.example.com",)))
    assert world.first.shown == {}
    world.first.start()
    await world.first.tools.shelf.sync(world.plan.wanted)
    assert world.first.shown == {}


async def test_one_that_has_expired_is_not_looked_for() -> None:
    world = await asked_for_more()
    world.clock.at += world.ca.lifetime + timedelta(days=1)
    world.first.start()
    await world.first.tools.shelf.load(world.plan.wanted)
    assert world.first.shown == {}


async def test_what_other_keys_have_sealed_for_others_is_no_trouble() -> None:
    world = await asked_for_more()
    for key in [key for key in world.bucket.objects if f"/{MAIL.id}/" in key]:
        sealed = world.bucket.objects.pop(key)
        world.bucket.objects[key] = sealed[:1] + bytes([sealed[1] ^ 1]) + sealed[2:]
    world.first.mirror = MemoryBucket()
    world.first.start()
    assert await world.first.tools.shelf.sync(world.plan.wanted)
    assert world.first.shown == {}
    assert world.first.vault.sealed_elsewhere == set()
