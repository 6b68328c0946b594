"""A CA whose clock is ahead of the nodes': what it issues begins later, and is nobody's reason to order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.renewing import CA, MAIL, World
from tls.policy import State
from tls.renewing.plan import Plan
from tls.wanted import Wanted

AHEAD = timedelta(minutes=10)
MORE = Wanted((*MAIL.names, "pop.example.com"))


def shown(world: World) -> set[bytes]:
    return {node.shown[MAIL.id].chain_pem for node in world.nodes}


async def renewed_early(nodes: int) -> tuple[World, bytes, bytes]:
    """After a renewal whose certificate begins in ten minutes: what was before, and that."""
    world = World(nodes=nodes)
    await world.round()
    world.ca.ahead = AHEAD
    world.clock.pass_by(days=61)
    await world.round()
    before, late = (order.issued for order in world.ca.orders)
    return world, before, late


@pytest.mark.parametrize("ahead", [timedelta(seconds=2), timedelta(minutes=4), timedelta(hours=3)])
async def test_a_working_one_is_shown_until_the_new_one_begins_and_nothing_is_ordered_again(
    ahead: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(nodes=2)
    await world.round()
    world.ca.ahead = ahead
    world.clock.pass_by(days=61)
    for _ in range(3):
        await world.round()
        assert shown(world) == {world.ca.orders[0].issued}
        assert not any(node.served.refresh() for node in world.nodes)
    told = [each for each in caplog.messages if "number" in each and "stays" in each]
    assert len(told) == len(world.nodes)
    assert all("not valid before" in each and "NTP" in each for each in told)
    world.clock.at += ahead
    assert all(node.served.refresh() for node in world.nodes)
    assert shown(world) == {world.ca.orders[1].issued}
    await world.round()
    assert world.ca.certificates == len(world.ca.orders) == 2
    assert (await world.first.rounds.judge(MAIL)).state is State.OK


async def test_where_there_is_none_it_is_shown_at_once_and_is_no_second_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(nodes=2)
    world.ca.ahead = AHEAD
    for _ in range(3):
        await world.round()
        world.clock.pass_by(minutes=4)
    assert shown(world) == {world.ca.orders[0].issued}
    assert world.ca.certificates == len(world.ca.orders) == 1
    assert await world.first.vault.journal(MAIL.id) is None
    told = [each for each in caplog.messages if "it is served because there is no other" in each]
    assert len(told) == len(world.nodes)
    assert all("NTP" in each for each in told)


@pytest.mark.parametrize("has_bucket", [True, False])
async def test_a_node_that_starts_meanwhile_shows_the_one_in_force(has_bucket: bool) -> None:
    world, before, late = await renewed_early(nodes=1)
    world.bucket.is_away = not has_bucket
    if has_bucket:
        world.first.mirror.objects.clear()
    world.first.start()
    await world.first.tools.shelf.load(world.plan.wanted)
    await world.round()
    assert shown(world) == {before}
    world.clock.at += AHEAD
    world.first.served.refresh()
    assert shown(world) == {late}
    world.bucket.is_away = False
    await world.round()
    assert world.ca.certificates == 2


async def test_when_the_working_one_expires_first_the_new_one_is_better_than_that() -> None:
    world = World()
    world.ca.lifetime = timedelta(hours=1)
    await world.round()
    world.ca.ahead = timedelta(hours=2)
    world.clock.pass_by(minutes=50)
    await world.round()
    assert shown(world) == {world.ca.orders[0].issued}
    world.clock.pass_by(minutes=11)
    assert world.first.served.refresh()
    assert shown(world) == {world.ca.orders[1].issued}


async def test_what_stands_in_for_other_names_is_shown_until_the_new_one_begins() -> None:
    world = World(plan=Plan((MAIL,), (CA,), digest="aa"))
    await world.round()
    world.ca.ahead = AHEAD
    served = world.first.served
    world.first.rounds.replan(replace(world.plan, wanted=(MORE,)))
    for _ in range(2):
        await world.first.rounds.round()
        table = served.table
        for name, issued in zip(MORE.names, (0, 0, 1), strict=True):
            found = table.find(name)
            assert found is not None
            assert [each.generation.chain_pem for each in found.held] == [world.ca.orders[issued].issued]
    world.clock.at += AHEAD
    assert served.refresh()
    await world.first.rounds.round()
    assert list(world.first.shown) == [MORE.id]
    assert {each.held[0].generation.wanted_id for each in served.table.shown()} == {MORE.id}
    assert world.ca.certificates == 2
