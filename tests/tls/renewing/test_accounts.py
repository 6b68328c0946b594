"""One key for the accounts at all authorities, known to every node: whichever authority asks, and whatever is
away, any node can answer."""

from __future__ import annotations

from dataclasses import replace

from tests.support.renewing import CA, MAIL, OTHER_CA, World
from tls.ports import Account, CaSettings, Failure, IssuingFailed
from tls.renewing.hold import holding
from tls.renewing.operations import Operations
from tls.renewing.ordering import Result
from tls.renewing.plan import Plan
from tls.retry import STAGING

BOTH = Plan((MAIL,), (CA, OTHER_CA), digest="aa")
REFUSED = IssuingFailed(Failure.BAD_ACCOUNT, "set eab_kid")


async def fallen_back(nodes: int = 1) -> World:
    """The first authority has registered us and refuses to issue; the second has issued."""
    world = World(nodes=nodes, plan=BOTH)
    world.ca.failing = [REFUSED] * 9
    for _ in range(2):
        await world.round()
    assert [world.cas[ca.directory].certificates for ca in BOTH.cas] == [0, 1]
    return world


async def keys(world: World) -> list[str]:
    accounts = [await world.first.vault.account(ca.directory) for ca in BOTH.cas]
    return [each.key_json for each in accounts if each is not None]


async def test_a_node_that_hears_nothing_knows_what_the_second_authority_asks_for() -> None:
    world = World(nodes=2, plan=BOTH)
    deaf = world.nodes[1]
    world.ca.failing = [REFUSED] * 9
    await world.first.rounds.round()
    await deaf.rounds.round()
    deaf.company.is_deaf = True
    told = deaf.answers.account
    assert told
    await world.first.rounds.round()
    assert world.cas[OTHER_CA.directory].certificates == 1
    assert await keys(world) == [told, told]


async def test_the_first_authority_takes_the_key_of_the_second_where_that_was_there_before() -> None:
    world = World(plan=BOTH)

    async def unbound(step: str) -> None:
        if step == "account":
            raise REFUSED

    world.ca.at = unbound
    for _ in range(2):
        await world.round()
    (known,) = await keys(world)
    assert world.first.answers.account == known
    world.ca.at = None
    assert (await world.first.rounds.order(MAIL, forced=True)).result is Result.ISSUED
    assert await keys(world) == [known, known]
    await world.round()
    assert world.first.answers.account == known


async def test_a_node_that_starts_without_the_bucket_knows_it_from_its_mirror() -> None:
    world = await fallen_back(nodes=2)
    known = (await keys(world))[0]
    world.bucket.is_away = True
    other = world.nodes[1]
    other.start()
    assert not other.answers.account
    await other.rounds.round()
    assert other.answers.account == known


async def test_a_new_key_is_the_same_for_all() -> None:
    world = await fallen_back()
    (before, _) = await keys(world)
    outcomes = await Operations(world.first.tools, world.first.rounds).roll_accounts()
    assert outcomes == {ca.directory: "done" for ca in BOTH.cas}
    first, second = await keys(world)
    assert first == second != before
    assert world.first.answers.account == first


async def test_accounts_that_had_keys_of_their_own_get_one_by_a_new_key() -> None:
    world = await fallen_back()
    old = await world.first.vault.account(OTHER_CA.directory)
    assert old is not None
    async with holding(world.leases, "node-1", world.clock.monotonic) as hold:
        assert hold is not None
        await world.first.vault.put_account(replace(old, key_json='{"its own": 1}'), hold.fence)
    assert len(set(await keys(world))) == 2
    await Operations(world.first.tools, world.first.rounds).roll_accounts()
    assert len(set(await keys(world))) == 1


async def test_an_authority_for_trials_knows_it_too() -> None:
    world = await fallen_back()
    world.cas[STAGING] = world.ca
    world.ca.failing.clear()
    outcome = await world.first.rounds.ordering.dry_run(MAIL, CaSettings(STAGING))
    assert outcome.result is Result.ISSUED
    account = await world.first.vault.account(STAGING)
    assert isinstance(account, Account)
    assert [account.key_json] * 2 == await keys(world)
