"""Nothing keeps a certificate from being renewed until it is too late: waits that a CA asks for, notes of
clocks that were wrong and of databases that were restored, accounts and profiles that are gone, one bad among
good."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from storage.leases import Attempts
from tests.support.renewing import CA, MAIL, OTHER_CA, START, FakeCa, World
from tls.policy import State
from tls.ports import CaSettings, Failure, IssuingFailed, Journal, Renewal
from tls.renewing.operations import Operations
from tls.renewing.ordering import Result
from tls.renewing.plan import Plan
from tls.retry import PRODUCTION, STAGING
from tls.wanted import KeyType, Wanted

YEAR_S = 365 * 86_400.0


async def until_renewed(world: World, *, step: timedelta, within: timedelta) -> timedelta:
    """How long it takes until there is a second certificate."""
    begun = world.clock.at
    while world.ca.certificates < 2:
        assert world.clock.at - begun < within, "it is never renewed"
        world.clock.at += step
        await world.round()
    return world.clock.at - begun


@pytest.mark.parametrize("failure", [Failure.RATE_LIMITED, Failure.UNREACHABLE])
async def test_a_retry_after_of_a_year_ends_before_the_certificate(failure: Failure) -> None:
    world = World()
    world.ca.lifetime = timedelta(days=6)
    await world.round()
    world.clock.pass_by(days=4, minutes=1)
    world.ca.failing = [IssuingFailed(failure, "go away", retry_after_s=YEAR_S)]
    await until_renewed(world, step=timedelta(minutes=10), within=timedelta(days=1, hours=2))


async def test_a_ca_that_was_away_for_hours_is_asked_before_a_short_life_ends() -> None:
    world = World()
    world.ca.lifetime = timedelta(hours=24)
    await world.round()
    world.clock.pass_by(hours=16, minutes=1)
    back_at = world.clock.at + timedelta(hours=5)

    async def be_away(step: str) -> None:
        if world.clock.at < back_at:
            raise IssuingFailed(Failure.UNREACHABLE, "no route")

    world.ca.at = be_away
    await until_renewed(world, step=timedelta(minutes=1), within=timedelta(hours=7, minutes=50))


async def test_who_limits_us_for_a_day_is_not_waited_for_where_there_is_another() -> None:
    world = World(plan=Plan((MAIL,), (CA, OTHER_CA)))
    world.ca.failing = [IssuingFailed(Failure.RATE_LIMITED, "too many")]
    await world.round()
    await world.round()
    assert world.first.shown[MAIL.id].ca == OTHER_CA.directory


async def test_what_was_noted_by_a_clock_in_the_future_blocks_nothing() -> None:
    world = World()
    world.clock.pass_by(days=4000)
    world.ca.failing = [IssuingFailed(Failure.BAD_ACCOUNT, "no such contact")]
    await world.round()
    world.clock.pass_by(days=-4000)
    world.first.start()  # its monotonic clock does not go back
    await world.round()
    assert world.ca.certificates == 1
    await world.record.save(
        CA.directory,
        MAIL.id,
        Attempts(renew_checked_at=START + timedelta(days=900), retry_after=START + timedelta(days=901)),
    )
    soon = START + timedelta(hours=1)
    world.ca.window = Renewal(soon, soon + timedelta(hours=1), 3600.0, "revoked")
    await world.round()
    assert (await world.first.rounds.judge(MAIL)).renew_at == soon + timedelta(minutes=30)


async def test_a_moment_of_a_database_from_yesterday_orders_nothing() -> None:
    world = World()
    await world.round()
    soon = START + timedelta(days=3)
    world.ca.window = Renewal(soon, soon + timedelta(hours=2), 86_400.0)
    world.clock.pass_by(days=2, hours=23)
    await world.round()
    backup = await world.record.load(CA.directory, MAIL.id)
    world.ca.window = None
    world.clock.pass_by(hours=3)
    await world.round()
    assert world.ca.certificates == 2
    # CAs date certificates back by an hour, so that the old moment may be in the life of the new one
    moment = world.clock.now() + timedelta(minutes=10)
    await world.record.save(CA.directory, MAIL.id, replace(backup, renew_at=moment))
    world.clock.pass_by(minutes=20)
    await world.round()
    assert world.ca.certificates == 2


async def test_without_renewal_information_the_cas_moment_is_forgotten() -> None:
    world = World()
    await world.round()
    late = START + timedelta(days=80)
    world.ca.window = Renewal(late, late + timedelta(days=1), 3600.0)
    world.clock.pass_by(days=1)
    await world.round()
    assert (await world.first.rounds.judge(MAIL)).by_ca
    world.first.rounds.replan(replace(world.plan, uses_renewal_info=False))
    assert not (await world.first.rounds.judge(MAIL)).by_ca


async def test_an_order_that_comes_to_no_end_is_left_for_another(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.ca.lifetime = timedelta(days=1)
    await world.round()

    async def hang(step: str) -> None:
        if step == "finalize" and len(world.ca.orders) == 2:
            raise IssuingFailed(Failure.TIMEOUT, "it is still processing")

    world.ca.at = hang
    world.clock.pass_by(hours=16, minutes=1)
    with caplog.at_level(logging.INFO):
        await until_renewed(world, step=timedelta(minutes=1), within=timedelta(hours=4))
    assert "going on with an order" in caplog.text
    assert len(world.ca.orders) == 3


async def test_the_order_of_an_account_that_is_gone_is_left() -> None:
    world = World()
    begun = Journal(MAIL, 1, CA.directory, "https://ca.example/dir/order/0", b"csr", b"key", START)
    await world.first.vault.put_journal(begun)

    async def refuse(step: str) -> None:
        if step == "resume":
            raise IssuingFailed(Failure.BAD_ACCOUNT, "not your order")

    world.ca.at = refuse
    await world.round()
    assert world.ca.certificates == 1


# --- the CA where an order is tried out -----------------------------------------------------------


def production() -> World:
    world = World(plan=Plan((MAIL,), (CaSettings(PRODUCTION),), digest="aa"))
    world.cas[STAGING] = FakeCa(world.clock, look=world.ca.look)
    world.ca.failing = [IssuingFailed(Failure.VALIDATION, "no answer", names=["mail.example.com"])]
    return world


@pytest.mark.parametrize(
    "failure", [Failure.UNREACHABLE, Failure.TIMEOUT, Failure.RATE_LIMITED, Failure.BAD_ACCOUNT]
)
async def test_troubles_of_staging_forbid_nothing(failure: Failure) -> None:
    world = production()
    world.cas[STAGING].failing = [IssuingFailed(failure, "staging is being emptied")]
    await world.round()
    world.clock.pass_by(minutes=3)
    await world.round()
    assert (world.cas[STAGING].failing, world.ca.certificates) == ([], 1)


async def test_what_staging_finds_wrong_spares_the_real_one() -> None:
    world = production()
    world.cas[STAGING].failing = [IssuingFailed(Failure.VALIDATION, "no answer")]
    await world.round()
    world.clock.pass_by(minutes=3)
    await world.round()
    assert world.ca.orders == []


async def test_staging_may_forget_our_account() -> None:
    world = production()
    for _ in range(2):
        outcome = await world.first.rounds.ordering.dry_run(MAIL, CaSettings(STAGING))
        assert outcome.result is Result.ISSUED
        world.cas[STAGING].accounts.clear()


# --- profiles -------------------------------------------------------------------------------------

SHORT = Wanted(MAIL.names, profile="shortlived")


def refusing_profiles(ca: FakeCa) -> Callable[[str], Awaitable[None]]:
    async def at(step: str) -> None:
        if step == "order" and ca.asked and ca.asked[-1].profile:
            raise IssuingFailed(Failure.REFUSED, "the CA has no such profile")

    return at


async def test_a_profile_that_the_ca_dropped_is_left_out_before_the_certificate_ends() -> None:
    world = World(plan=Plan((SHORT,), (CA,), digest="aa"))
    await world.round()
    world.ca.at = refusing_profiles(world.ca)
    world.clock.pass_by(days=61)
    await world.round()
    assert world.ca.certificates == 1
    assert "no such profile" in world.first.rounds.standings[SHORT.id].note
    world.clock.pass_by(days=25)
    await world.round()
    assert world.ca.certificates == 2


async def test_a_ca_in_reserve_need_not_have_the_profile() -> None:
    world = World(plan=Plan((SHORT,), (CA, OTHER_CA), digest="aa"))
    other = world.cas[OTHER_CA.directory]
    other.at = refusing_profiles(other)
    world.ca.failing = [IssuingFailed(Failure.RATE_LIMITED, "too many")]
    await world.round()
    await world.round()
    assert other.certificates == 1


# --- revoked --------------------------------------------------------------------------------------


async def test_a_revoked_certificate_is_replaced_however_often_that_fails() -> None:
    world = World()
    await world.round()
    for _ in range(2):  # the budget is spent
        assert (await world.first.rounds.order(MAIL, forced=True)).result is Result.ISSUED
    world.ca.failing = [IssuingFailed(Failure.UNREACHABLE, "no route")]
    outcome = await Operations(world.first.tools, world.first.rounds).revoke(MAIL, 1)
    assert outcome.result is Result.FAILED
    assert (await world.first.rounds.judge(MAIL)).state is State.REVOKED
    world.clock.pass_by(minutes=2)
    await world.round()
    assert world.ca.certificates == 4
    assert (await world.first.rounds.judge(MAIL)).state is State.OK


async def test_what_is_forced_and_fails_promises_no_other_attempt(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.round()
    world.ca.failing = [IssuingFailed(Failure.UNREACHABLE, "no route")]
    outcome = await world.first.rounds.order(MAIL, forced=True)
    assert (outcome.result, outcome.until) == (Result.FAILED, None)
    assert "it is not due" in caplog.text


# --- one among several ----------------------------------------------------------------------------


async def test_what_nobody_foresaw_about_one_keeps_no_other_from_its_turn() -> None:
    bad = Wanted(("bad.example.com",), KeyType.P384)
    world = World(plan=Plan((bad, MAIL), (CA,), digest="aa"))
    vault = world.first.vault

    async def journal(wanted_id: str) -> Journal | None:
        if wanted_id == bad.id:
            raise OverflowError("date value out of range")
        return await type(vault).journal(vault, wanted_id)

    vault.journal = journal  # type: ignore[method-assign]
    await world.round()
    assert list(world.first.shown) == [MAIL.id]
    assert "OverflowError" in world.first.rounds.standings[bad.id].note
    assert world.first.tools.figures.failures["internal"] == 1


def refuses(world: World, bad: str, failure: Failure = Failure.VALIDATION) -> None:
    """Orders with this name."""
    error = IssuingFailed(failure, "no answer", names=[bad, f"*.{bad}"])

    async def at(step: str) -> None:
        if step == "order" and bad in world.ca.asked[-1].names:
            raise error

    world.ca.at = at


async def test_one_bad_name_among_several_keeps_none_of_the_others_from_their_certificate() -> None:
    world = World()
    await world.round()
    refuses(world, "imap.example.com")
    world.clock.pass_by(days=61)
    for _ in range(5):
        await world.round()
        world.clock.pass_by(hours=7)
    assert world.ca.certificates == 1, "there is time for somebody to mend it"
    world.clock.pass_by(days=24)
    await world.round()
    assert world.ca.certificates == 2
    assert world.first.shown[MAIL.id].names == ("mail.example.com",)
    assert (await world.first.rounds.judge(MAIL)).state is State.INCOMPLETE
    assert "without imap.example.com: validation: no answer" in world.first.rounds.standings[MAIL.id].note
    for _ in range(30):
        world.clock.pass_by(minutes=10)
        await world.round()
    assert world.ca.certificates == 2
    assert len(world.ca.asked) < 12, "the schedule of failures goes on"
    world.ca.at = None
    world.clock.pass_by(hours=8)
    await world.round()
    assert world.first.shown[MAIL.id].names == MAIL.names
    assert (await world.first.rounds.judge(MAIL)).state is State.OK


@pytest.mark.parametrize("failure", [Failure.REJECTED_NAME, Failure.UNPUBLISHED])
async def test_neither_does_one_that_is_rejected_nor_one_whose_zone_takes_no_record(failure: Failure) -> None:
    world = World()
    await world.round()
    refuses(world, "mail.example.com", failure)
    world.clock.pass_by(days=87)
    await world.round()
    assert world.first.shown[MAIL.id].names == ("imap.example.com",)


async def test_a_first_certificate_waits_for_no_name_for_long() -> None:
    world = World(nodes=2)
    refuses(world, "imap.example.com")
    for _ in range(4):
        await world.round()
        world.clock.pass_by(minutes=3)
    await world.nodes[1].hear()
    assert [node.shown[MAIL.id].names for node in world.nodes] == [("mail.example.com",)] * 2
    assert await world.first.vault.journal(MAIL.id) is None
    assert await world.record.count(CA.directory, "failure", "imap.example.com", 3600) == 3


async def test_other_nodes_learn_of_the_accounts_new_key() -> None:
    world = World(nodes=2)
    await world.round()
    before = world.nodes[1].answers.account
    await Operations(world.first.tools, world.first.rounds).roll_accounts()
    await world.round()
    assert world.nodes[1].answers.account == f'{{"new after": {before}}}'
