"""What a cluster does about its certificates: when all is well, and each row of what may fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from storage.leases import Attempts
from tests.support.renewing import CA, MAIL, OTHER_CA, SECRET, START, FakeNode, World
from tls.policy import State
from tls.ports import Failure, IssuingFailed, Renewal
from tls.renewing.hold import LEASE, TTL_S
from tls.renewing.ordering import Result
from tls.renewing.plan import Plan
from tls.vault.layout import ca_id, digest
from tls.vault.memory import MemoryBucket
from tls.vault.sealing import Kind as SealedKind
from tls.vault.sealing import Label, Seals
from tls.vault.vault import SealedVault
from tls.wanted import KeyType, Wanted


async def die(node: FakeNode, task: asyncio.Task[float]) -> None:
    """kill -9: nothing is given back."""
    node.world.leases.away.add(node.name)
    node.is_alive = False
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def serving(world: World) -> set[bytes]:
    return {node.shown[MAIL.id].chain_pem for node in world.nodes if node.is_alive and MAIL.id in node.shown}


# --- all is well --------------------------------------------------------------------------------


async def test_an_empty_bucket_gets_one_certificate_that_all_nodes_show() -> None:
    world = World(nodes=3)
    await world.round()
    assert world.ca.certificates == len(world.ca.orders) == 1
    assert serving(world) == {world.ca.orders[0].issued}
    assert await world.first.vault.journal(MAIL.id) is None
    await world.round()
    assert len(world.ca.orders) == 1


async def test_it_is_renewed_once_when_its_time_has_come() -> None:
    world = World(nodes=3)
    await world.round()
    world.clock.pass_by(days=59)
    await world.round()
    assert world.ca.certificates == 1
    world.clock.pass_by(days=2)
    await world.round()
    await world.round()
    assert world.ca.certificates == 2
    assert serving(world) == {world.ca.orders[1].issued}
    assert world.ca.replaced == [world.ca.orders[0].issued]


async def test_certificates_for_an_hour_are_renewed_again_and_again() -> None:
    world = World(nodes=2)
    world.ca.lifetime = timedelta(hours=1)
    for _ in range(24 * 6):
        await world.round()
        assert serving(world) == {world.ca.orders[-1].issued}
        world.clock.pass_by(minutes=10)
    assert 24 * 60 / 50 <= world.ca.certificates <= 24 * 60 / 40 + 1


async def test_ecdsa_and_rsa_side_by_side_are_two_certificates() -> None:
    rsa = replace(MAIL, key_type=KeyType.RSA2048)
    world = World(plan=Plan((MAIL, rsa), (CA,)))
    await world.round()
    assert set(world.first.shown) == {MAIL.id, rsa.id}
    assert world.ca.certificates == 2


async def test_a_node_that_starts_shows_what_its_mirror_has_and_orders_nothing() -> None:
    world = World()
    await world.round()
    world.bucket.is_away = True
    world.first.start()
    await world.first.tools.shelf.load(world.plan.wanted)
    assert world.first.shown
    await world.round()
    assert world.ca.certificates == 1


async def test_what_is_asked_for_by_a_client_is_ordered_by_the_leader() -> None:
    world = World(nodes=2)
    world.nodes[1].tools.company.ask_for("mail.example.com")
    assert world.nodes[1].company.asked == ["mail.example.com"]
    assert world.plan.for_name("mail.example.com") == (MAIL,)
    assert Plan((Wanted(("*.example.com",)),), (CA,)).for_name("mail.example.com")


# --- when: the CA's renewal information ---------------------------------------------------------


async def test_the_moment_in_the_cas_window_is_kept_for_all_nodes() -> None:
    world = World(nodes=2)
    await world.round()
    early = START + timedelta(days=5)
    world.ca.window = Renewal(early, early + timedelta(days=2), 3600.0, "revoked soon")
    world.clock.pass_by(hours=7)
    await world.round()
    known = await world.record.load(CA.directory, MAIL.id)
    assert known.renew_at == early + timedelta(days=1)
    assert known.retry_after == world.clock.now() + timedelta(hours=1)
    assert (await world.nodes[1].rounds.judge(MAIL)).renew_at == known.renew_at
    world.clock.pass_by(days=7)
    await world.round()
    assert world.ca.certificates == 2


async def test_a_window_that_ends_before_it_begins_is_ignored() -> None:
    world = World()
    world.ca.window = Renewal(START + timedelta(days=2), START + timedelta(days=1), 3600.0)
    await world.round()
    await world.round()
    verdict = await world.first.rounds.judge(MAIL)
    assert (verdict.state, verdict.by_ca) == (State.OK, False)


async def test_a_window_in_the_past_does_not_make_us_order_without_end() -> None:
    world = World()
    world.ca.window = Renewal(START - timedelta(days=2), START - timedelta(days=1), 60.0)
    for _ in range(20):
        await world.round()
        world.clock.pass_by(minutes=10)
    assert world.ca.certificates == 1


@pytest.mark.parametrize("told_s", [None, 7200.0])
async def test_no_answer_about_renewal_is_asked_for_again_later(told_s: float | None) -> None:
    world = World()
    world.ca.window = IssuingFailed(Failure.UNREACHABLE, "500", retry_after_s=told_s)
    await world.round()
    await world.round()
    known = await world.record.load(CA.directory, MAIL.id)
    assert known.retry_after == world.clock.now() + timedelta(seconds=told_s or 6 * 3600.0)
    assert (await world.first.rounds.judge(MAIL)).state is State.OK


async def test_an_emergency_overrides_a_late_window() -> None:
    world = World()
    await world.round()
    late = START + timedelta(days=89)
    world.ca.window = Renewal(late, late + timedelta(hours=2), 3600.0)
    world.clock.pass_by(days=70)
    await world.round()
    assert world.ca.certificates == 1
    world.clock.pass_by(days=16)
    await world.round()
    assert world.ca.certificates == 2


async def test_renew_before_beyond_a_third_of_the_lifetime_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.ca.lifetime = timedelta(days=6)
    for _ in range(3):
        await world.round()
    assert caplog.text.count("more than a third") == 1
    assert world.ca.certificates == 1
    world.clock.pass_by(days=5)
    for _ in range(3):
        await world.round()
    assert world.ca.certificates == 2, "once, not at every look"


# --- who dies -----------------------------------------------------------------------------------

STEPS = ("account", "order", "journalled", "publish", "answer", "finalize", "download")


@pytest.mark.parametrize("step", STEPS)
async def test_a_leader_that_dies_at_any_step_leaves_one_new_certificate(step: str) -> None:
    world = World(nodes=3)
    task = await world.begin(world.first, step)
    await die(world.first, task)
    await world.round()
    assert not serving(world)  # its lease is still good, and node-2 leads now
    world.clock.pass_by(seconds=TTL_S + 1)
    await world.round()
    assert world.ca.certificates == 1
    assert len(serving(world)) == 1
    is_journalled = STEPS.index(step) >= STEPS.index("journalled")
    assert len(world.ca.orders) == 1
    assert world.nodes[1].tools.figures.resumed == is_journalled


async def test_a_node_of_a_lower_rank_begins_when_the_leader_does_nothing() -> None:
    world = World(nodes=3)
    world.first.company.own_rank = 0
    for rank, node in enumerate(world.nodes):
        node.company.own_rank = rank
    last = world.nodes[2].rounds
    assert await last.round() == pytest.approx(120)
    world.clock.pass_by(seconds=119)
    await last.round()
    assert not world.ca.orders
    world.clock.pass_by(seconds=2)
    await last.round()
    assert world.ca.certificates == 1


# --- split brain --------------------------------------------------------------------------------


async def test_two_leaders_make_one_order() -> None:
    world = World(nodes=2)
    for node in world.nodes:
        node.company.own_rank, node.company.is_deaf = 0, True
    task = await world.begin(world.first, "finalize")
    assert world.nodes[1].rounds.standings == {}
    await world.nodes[1].rounds.round()
    assert world.nodes[1].rounds.standings[MAIL.id].note == "node-1 is ordering"
    assert world.nodes[1].tools.figures.deferred == 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await world.nodes[1].rounds.round()
    assert world.ca.certificates == len(world.ca.orders) == 1


async def test_who_lost_the_lease_gives_up_and_never_wins() -> None:
    world = World(nodes=2)
    stalled, other = world.nodes
    task = await world.begin(stalled, "answer")
    world.clock.pass_by(seconds=TTL_S + 1)  # it stood still
    other.company.own_rank = 0
    await other.rounds.round()
    newest = other.shown[MAIL.id]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    outcome = await stalled.rounds.order(MAIL, forced=False)
    assert outcome.result is Result.UP_TO_DATE
    assert stalled.shown[MAIL.id] == newest
    assert world.ca.certificates == 1


async def test_a_lease_that_is_taken_over_in_an_order_ends_it_without_a_failure() -> None:
    world = World(nodes=2)

    async def lose(name: str) -> None:
        if name == "answer":
            world.clock.pass_by(seconds=TTL_S + 1)
            await world.leases.take(LEASE, "node-2", TTL_S)

    world.ca.at = lose
    outcome = await world.first.rounds.order(MAIL, forced=False)
    assert outcome.result is Result.DEFERRED
    assert world.ca.certificates == 0
    assert await world.record.load(CA.directory, MAIL.id) == Attempts()


# --- the bucket ---------------------------------------------------------------------------------


async def test_nothing_is_ordered_while_there_is_nowhere_to_publish() -> None:
    world = World()
    world.bucket.is_away = True
    assert await world.first.rounds.round() == pytest.approx(5)  # it is tried again soon
    assert not world.ca.orders
    assert "nowhere to publish" in world.first.rounds.standings[MAIL.id].note
    world.bucket.is_away = False
    await world.round()
    assert serving(world)


async def test_the_bucket_is_tried_again_at_longer_intervals() -> None:
    world = World()
    world.bucket.is_away = True
    assert [await world.first.rounds.round() for _ in range(6)] == [5, 10, 20, 40, 60, 60]


async def test_a_bucket_that_is_away_when_something_is_due_stops_renewal_but_not_serving() -> None:
    world = World()
    await world.round()
    world.clock.pass_by(days=61)
    world.bucket.is_away = True
    await world.round()
    assert world.ca.certificates == 1
    assert serving(world)


async def test_an_emergency_without_a_bucket_is_in_all_mirrors_at_once_and_uploaded_later() -> None:
    world = World(nodes=2)
    await world.round()
    world.clock.pass_by(days=87)
    world.bucket.is_away = True
    await world.round()
    assert world.ca.certificates == 2
    newest = world.first.shown[MAIL.id]
    for node in world.nodes:
        assert await node.vault.newest_local(MAIL.id) == node.shown[MAIL.id] == newest
    assert world.first.company.copies
    world.bucket.is_away = False
    await world.round()
    assert max(await world.first.vault.generations(MAIL.id)) == newest.fence
    assert not world.first.company.copies
    await world.round()
    assert serving(world) == {newest.chain_pem}
    assert world.ca.certificates == 2


async def test_an_emergency_certificate_outlives_the_node_that_ordered_it() -> None:
    world = World(nodes=2)
    await world.round()
    world.clock.pass_by(days=87)
    world.bucket.is_away = True
    await world.round()
    newest = world.first.shown[MAIL.id]
    world.first.is_alive = False
    world.nodes[1].start()  # with nothing but its disk
    await world.nodes[1].tools.shelf.load(world.plan.wanted)
    assert world.nodes[1].shown[MAIL.id] == newest
    world.bucket.is_away = False
    await world.round()
    assert max(await world.nodes[1].vault.generations(MAIL.id)) == newest.fence
    assert world.ca.certificates == 2


@pytest.mark.parametrize("what", ["torn", "foreign key", "other certificate", "older", "other CA"])
async def test_what_is_handed_on_counts_only_when_it_opens_and_is_newer(what: str) -> None:
    world = World(nodes=2)
    await world.round()
    receiver, before = world.nodes[1], world.nodes[1].shown[MAIL.id]
    ca = OTHER_CA.directory if what == "other CA" else CA.directory
    fence = before.fence - 1 if what == "older" else before.fence + 1
    made = replace(before, fence=fence, ca=ca)
    seals = Seals([b"t" * 32]) if what == "foreign key" else Seals([SECRET])
    copy = await SealedVault(MemoryBucket(), seals, [ca]).publish_locally(made)
    key, sealed = copy.key, copy.sealed
    if what == "torn":
        sealed = sealed[:-1]
    if what == "other certificate":
        key = key.replace(MAIL.id, "0" * 16)
    await receiver.rounds.handed(key, sealed)
    assert receiver.shown[MAIL.id] == before
    assert await receiver.vault.newest_local(MAIL.id) == before


@pytest.mark.parametrize("key", ["/account/", "/orders/", "/certs/"])
async def test_a_write_that_fails_costs_no_second_certificate(key: str) -> None:
    world = World()
    world.bucket.refuses = key
    await world.round()
    assert not serving(world)
    assert (await world.record.load(CA.directory, MAIL.id)).last_failure.startswith("unpublished")
    world.bucket.refuses = ""
    world.clock.pass_by(minutes=2)
    await world.round()
    assert world.ca.certificates == 1
    assert serving(world)


async def test_without_the_bucket_for_challenges_gossip_is_enough() -> None:
    world = World(nodes=2)
    world.bucket.refuses = "/challenges/"
    await world.round()
    assert world.ca.certificates == 1


async def test_an_object_that_is_gone_is_no_reason_to_order() -> None:
    world = World()
    await world.round()
    world.bucket.objects.clear()
    await world.round()
    assert serving(world)
    assert world.ca.certificates == 1


async def test_a_corrupt_object_is_passed_over_and_the_one_before_is_shown() -> None:
    world = World()
    await world.round()
    first = world.first.shown[MAIL.id]
    world.clock.pass_by(days=61)
    await world.round()
    newest = max(key for key in world.bucket.objects if "/certs/" in key)
    world.bucket.objects[newest] = b"\1\0" + b"x" * 100
    world.first.mirror.objects.clear()
    world.first.start()
    await world.first.tools.shelf.sync(world.plan.wanted)
    assert world.first.shown[MAIL.id] == first


@pytest.mark.parametrize("what", ["other_key", "corrupt", "vanished"])
async def test_objects_that_cannot_be_used_are_no_reason_to_order(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with another key, or a store that has lost a file, must not spend the CA's limits."""
    world = World()
    await world.round()
    first, node = world.first.shown[MAIL.id], world.first
    (key,) = (key for key in world.bucket.objects if "/certs/" in key)
    good = world.bucket.objects[key]
    if what == "other_key":
        label = Label(SealedKind.CERTIFICATE, ca_id(CA.directory), MAIL.id, first.fence)
        foreign = Seals([b"t" * 32]).seal(label, b"{}", nonce=bytes(24))
        spoilt = key.rpartition("-")[0] + f"-{digest(foreign)}.bin"
        del world.bucket.objects[key]
        world.bucket.objects[spoilt] = foreign
    else:
        spoilt, get = key, world.bucket.get
        world.bucket.objects[key] = good[:-1]

        async def lost(name: str) -> bytes | None:
            return None if name == key else await get(name)

        if what == "vanished":
            monkeypatch.setattr(world.bucket, "get", lost)
    node.mirror.objects.clear()
    node.start()
    assert await node.rounds.round() <= 60
    assert (world.ca.certificates, node.shown) == (1, {})
    assert what in node.rounds.standings[MAIL.id].note
    monkeypatch.undo()
    del world.bucket.objects[spoilt]
    world.bucket.objects[key] = good
    await node.rounds.round()
    assert (world.ca.certificates, node.shown[MAIL.id]) == (1, first)


async def test_an_operator_may_order_where_no_object_can_be_used() -> None:
    world = World()
    await world.round()
    (key,) = (key for key in world.bucket.objects if "/certs/" in key)
    world.bucket.objects[key] = world.bucket.objects[key][:-1]
    world.first.mirror.objects.clear()
    world.first.start()
    outcome = await world.first.rounds.order(MAIL, forced=True)
    assert outcome.result is Result.ISSUED
    assert world.ca.certificates == 2
    assert await world.first.rounds.round() > 60


# --- the database -------------------------------------------------------------------------------


async def test_nothing_is_ordered_without_the_database_and_serving_goes_on() -> None:
    world = World()
    await world.round()
    world.clock.pass_by(days=61)
    world.leases.is_away = True
    await world.round()
    assert world.ca.certificates == 1
    assert serving(world)
    assert "the database is away" in world.first.rounds.standings[MAIL.id].note


@pytest.mark.parametrize(("rank", "is_majority", "orders"), [(0, True, 2), (0, False, 1), (1, True, 1)])
async def test_without_the_database_only_a_leader_of_a_majority_orders_in_an_emergency(
    rank: int, is_majority: bool, orders: int
) -> None:
    world = World(nodes=2)
    await world.round()
    world.clock.pass_by(days=87)
    world.leases.is_away = True
    company = world.first.company
    company.own_rank, company.is_majority = rank, is_majority
    fence = world.first.shown[MAIL.id].fence
    await world.first.rounds.order(MAIL, forced=False)
    assert world.ca.certificates == orders
    assert (world.first.shown[MAIL.id].fence > fence) == (orders == 2)


@pytest.mark.parametrize("skew_s", [-61, 61])
async def test_nothing_is_ordered_when_the_clocks_differ(skew_s: int) -> None:
    world = World()
    world.leases.skew = timedelta(seconds=skew_s)
    await world.round()
    assert not world.ca.orders
    assert "61 s apart" in world.first.rounds.standings[MAIL.id].note


# --- the CA -------------------------------------------------------------------------------------


async def test_a_ca_that_is_away_is_asked_again_later_each_time() -> None:
    world = World()
    world.ca.failing = [IssuingFailed(Failure.UNREACHABLE, "connection refused")] * 2
    assert await world.first.rounds.round() == pytest.approx(60)
    await world.round()
    assert len(world.ca.failing) == 1  # not asked again yet
    world.clock.pass_by(seconds=61)
    assert await world.first.rounds.round() == pytest.approx(120)
    world.clock.pass_by(seconds=121)
    await world.round()
    assert serving(world)
    assert world.first.tools.figures.failures == {"unreachable": 2}


async def test_a_rate_limit_is_kept_over_a_change_of_the_leader() -> None:
    world = World(nodes=2)
    world.ca.failing = [IssuingFailed(Failure.RATE_LIMITED, "too many certificates", retry_after_s=7200)]
    await world.first.rounds.round()
    world.first.is_alive = False
    await world.nodes[1].rounds.round()
    assert not world.ca.orders
    assert "too many certificates" in world.nodes[1].rounds.standings[MAIL.id].note
    world.clock.pass_by(seconds=7201)
    await world.nodes[1].rounds.round()
    assert world.ca.certificates == 1


async def test_a_refusal_for_good_ends_with_the_configuration() -> None:
    world = World()
    world.ca.failing = [IssuingFailed(Failure.BAD_ACCOUNT, "contact is invalid")]
    await world.round()
    world.clock.pass_by(hours=2)
    await world.round()
    assert not world.ca.orders
    world.first.rounds.replan(replace(world.plan, digest="bb"))
    await world.round()
    assert world.ca.certificates == 1


async def test_after_three_failures_the_next_ca_is_asked() -> None:
    world = World(plan=Plan((MAIL,), (CA, OTHER_CA)))
    world.ca.failing = [IssuingFailed(Failure.TIMEOUT, "no answer")] * 9
    for _ in range(3):
        await world.round()
        world.clock.pass_by(minutes=4)
    world.clock.pass_by(minutes=-4)
    await world.round()
    assert world.cas[OTHER_CA.directory].certificates == 1
    assert world.first.shown[MAIL.id].ca == OTHER_CA.directory


async def test_an_account_that_the_ca_lost_is_registered_once_more() -> None:
    world = World()
    await world.round()
    world.ca.accounts.clear()
    world.clock.pass_by(days=61)
    await world.round()
    assert world.ca.certificates == 2


async def test_failed_validations_are_counted_and_stop_at_three_in_an_hour() -> None:
    world = World()
    world.ca.look = lambda _token: None
    for _ in range(20):
        await world.round()
        world.clock.pass_by(minutes=3)
    assert len(world.ca.orders) == 3 + 1, "the last time without the name that failed, too"
    assert await world.record.count(CA.directory, "failure", "imap.example.com", 7200) == 3
    assert await world.record.count(CA.directory, "failure", "mail.example.com", 7200) == 1
    assert "budget" in world.first.rounds.standings[MAIL.id].note


async def test_a_certificate_that_never_stays_is_ordered_three_times_a_week_at_most() -> None:
    world = World()
    for _ in range(5):
        await world.first.rounds.order(MAIL, forced=True)
        world.clock.pass_by(hours=1)
    assert world.ca.certificates == 3


async def test_what_a_check_finds_is_told_and_forbids_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.first.remarks = ["mail.example.com is at 192.0.2.7, where port 80 cannot be reached"]
    with caplog.at_level(logging.WARNING):
        await world.round()
    assert "192.0.2.7" in caplog.text
    assert world.ca.certificates == 1


async def test_the_words_of_the_ca_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.ca.failing = [IssuingFailed(Failure.REFUSED, "CAA record forbids issuance")]
    await world.round()
    assert "CAA record forbids issuance" in caplog.text
