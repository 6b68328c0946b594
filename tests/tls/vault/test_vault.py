"""The vault on a bucket in memory: what is found, what is passed over, what stays and what goes."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.issued import CA, NOW, generation
from tls.errors import CertificateUnusable
from tls.ports import Account, BucketUnavailable, Generation, Journal
from tls.vault.layout import CHALLENGES, ca_id, digest
from tls.vault.memory import MemoryBucket
from tls.vault.records import dump
from tls.vault.sealing import NONCE_BYTES, Kind, Label, Reason, Seals
from tls.vault.vault import KEPT_GENERATIONS, SealedVault
from tls.wanted import KeyType, Wanted

WANTED = Wanted(("mail.example.test",))
SECOND_CA = "https://second.example.test/directory"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
SECRET = b"s" * 32


class World:
    """A bucket and a node's mirror, and a clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.bucket, self.mirror = MemoryBucket(), MemoryBucket()
        self.vault = self.node()

    def node(
        self, secrets: tuple[bytes, ...] = (SECRET,), cas: tuple[str, ...] = (CA, SECOND_CA)
    ) -> SealedVault:
        """One that was started just now, with the mirror of the first."""
        return SealedVault(self.bucket, Seals(secrets), cas, mirror=self.mirror, now=self.clock)

    def other(self) -> SealedVault:
        """A node with an empty mirror."""
        return SealedVault(self.bucket, Seals([SECRET]), (CA, SECOND_CA), now=self.clock)

    def clock(self) -> datetime:
        return self.now

    def key(self, fence: int, kind: str = "certs") -> str:
        (key,) = [key for key in self.bucket.objects if f"/{kind}/" in key and f"{fence:012}" in key]
        return key

    def put(self, fence: int, content: bytes, label: Label | None = None) -> None:
        """Sealed well, whatever it says."""
        label = label or Label(Kind.CERTIFICATE, ca_id(CA), WANTED.id, fence)
        sealed = Seals([SECRET]).seal(label, content, bytes(NONCE_BYTES))
        start = f"tls/v1/{ca_id(CA)}/certs/{WANTED.id}/"
        self.bucket.objects[f"{start}{fence:012}-{digest(sealed)}.bin"] = sealed


@pytest.fixture
def world() -> World:
    return World()


# --- generations ---


async def test_nothing_is_there_at_first(world: World) -> None:
    assert await world.vault.newest(WANTED.id) is None
    assert await world.vault.newest_local(WANTED.id) is None
    assert await world.vault.generations(WANTED.id) == []
    assert not world.vault.sealed_elsewhere


async def test_every_node_finds_what_was_published(world: World) -> None:
    published = generation(7)
    await world.vault.publish(published)
    for node in (world.vault, world.node(), world.other()):
        assert await node.newest(WANTED.id) == published
    assert await world.node().newest_local(WANTED.id) == published
    assert await world.other().newest_local(WANTED.id) is None
    (key,) = world.bucket.objects
    assert key.startswith(f"tls/v1/{ca_id(CA)}/certs/{WANTED.id}/000000000007-")
    assert published.key_pem not in world.bucket.objects[key]
    assert b"PRIVATE" not in world.bucket.objects[key]


async def test_the_highest_fence_wins_whatever_came_last(world: World) -> None:
    for fence in (5, 12, 9):
        await world.vault.publish(generation(fence))
        await world.other().newest(WANTED.id)
    assert await world.vault.generations(WANTED.id) == [12, 9, 5]
    for node in (world.vault, world.node(), world.other()):
        found = await node.newest(WANTED.id)
        assert found is not None
        assert found.fence == 12


async def test_a_second_ca_and_one_that_is_configured_no_more(world: World) -> None:
    await world.vault.publish(generation(5))
    await world.vault.publish(generation(6, ca=SECOND_CA))
    newest = await world.vault.newest(WANTED.id)
    assert newest is not None
    assert newest.ca == SECOND_CA
    alone = await world.node(cas=(CA,)).newest(WANTED.id)
    assert alone is not None
    assert (alone.ca, alone.fence) == (CA, 5)


async def test_two_under_one_fence_the_later_wins_on_every_node(world: World) -> None:
    later = generation(5, issued_at=NOW)
    for each in (later, generation(5, issued_at=NOW - timedelta(hours=1), ca=SECOND_CA), generation(4)):
        await world.vault.publish(each)
    for node in (world.vault, world.node(), world.other()):
        assert await node.newest(WANTED.id) == later


async def test_a_certificate_that_is_published_twice_is_one(world: World) -> None:
    again = generation(5)
    for _ in range(2):
        await world.vault.publish(again)
    assert await world.vault.generations(WANTED.id) == [5]
    assert await world.other().newest(WANTED.id) == again


async def test_dates_are_the_readers_to_judge(world: World) -> None:
    published = generation(5, lifetime=timedelta(days=6))
    await world.vault.publish(published)
    world.now += timedelta(days=30)
    assert await world.node().newest(WANTED.id) == published


@pytest.mark.parametrize(
    "unusable",
    [
        replace(generation(5), names=("mail.example.test", "other.test")),
        replace(generation(5), key_pem=generation(5).key_pem),
        replace(generation(5), chain_pem=b""),
        generation(5, issued_at=NOW - timedelta(days=100)),
    ],
    ids=["names", "key", "chain", "expired"],
)
async def test_what_no_node_would_serve_is_not_published(world: World, unusable: Generation) -> None:
    for publish in (world.vault.publish, world.vault.publish_locally):
        with pytest.raises(CertificateUnusable):
            await publish(unusable)
    assert not world.bucket.objects
    assert not world.mirror.objects


async def test_of_what_begins_later_the_one_before_is_in_force_until_then(world: World) -> None:
    before, late = generation(4), generation(5, issued_at=NOW + timedelta(hours=2))
    for each in (generation(3), before, late):
        await world.vault.publish(each)
    for node in (world.node(), world.other()):
        assert await node.newest(WANTED.id) == late
        assert await node.in_force(WANTED.id) == before
        assert await node.in_force(WANTED.id, is_local=True) == before, "the mirror has got it meanwhile"
    world.now += timedelta(hours=1)
    assert await world.node().in_force(WANTED.id) == late


async def test_what_reads_back_otherwise_is_not_published(world: World) -> None:
    async def lost(key: str, data: bytes) -> None:
        """Some gateways answer 200 and keep nothing."""

    world.bucket.put = lost  # type: ignore[method-assign]
    with pytest.raises(BucketUnavailable, match="read back, it is not there"):
        await world.vault.publish(generation(5))

    async def cut(key: str, data: bytes) -> None:
        world.bucket.objects[key] = data[:-1]

    world.bucket.put = cut  # type: ignore[method-assign]
    with pytest.raises(BucketUnavailable, match="its bytes are others"):
        await world.vault.publish(generation(5))
    assert not world.mirror.objects
    assert await world.other().newest(WANTED.id) is None


# --- what is passed over ---


def spoil(world: World, how: str) -> None:
    """The object of fence 9 in the bucket."""
    key = world.key(9)
    sealed = world.bucket.objects[key]
    good = generation(9)
    if how in ("foreign", "moved", "other key", "version"):
        del world.bucket.objects[key]
    match how:
        case "altered":
            world.bucket.objects[key] = sealed[:-1] + bytes([sealed[-1] ^ 1])
        case "empty":
            world.bucket.objects[key] = b""
        case "foreign":
            world.put(9, b"<html>")
        case "moved":
            label = Label(Kind.CERTIFICATE, ca_id(CA), WANTED.id, 4)
            world.put(9, dump(generation(4)), label)
        case "inner fence":
            world.put(9, dump(replace(good, fence=8)))
            del world.bucket.objects[key]
        case "inner id":
            world.put(9, dump(replace(good, wanted_id="0" * 16)))
            del world.bucket.objects[key]
        case "inner ca":
            world.put(9, dump(replace(good, ca=SECOND_CA)))
            del world.bucket.objects[key]
        case "key":
            world.put(9, dump(replace(good, key_pem=generation(9).key_pem)))
            del world.bucket.objects[key]
        case "names":
            world.put(9, dump(replace(good, names=("else.test",))))
            del world.bucket.objects[key]
        case "zone":
            world.put(9, dump(replace(good, issued_at=NOW.replace(tzinfo=None))))
            del world.bucket.objects[key]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("altered", Reason.CORRUPT),
        ("empty", Reason.CORRUPT),
        ("foreign", Reason.INVALID),
        ("moved", Reason.MISPLACED),
        ("inner fence", Reason.MISPLACED),
        ("inner id", Reason.MISPLACED),
        ("inner ca", Reason.MISPLACED),
        ("key", Reason.INVALID),
        ("names", Reason.INVALID),
        ("zone", Reason.INVALID),
    ],
)
async def test_the_next_lower_fence_is_served(
    world: World, how: str, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    for fence in (8, 9):
        await world.vault.publish(generation(fence))
    spoil(world, how)
    reader = world.other()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = await reader.newest(WANTED.id)
            assert found is not None
            assert found.fence == 8
    assert reader.skipped == {reason: 3}
    assert len(caplog.records) == 1  # told once
    assert "000000000009" in caplog.text
    assert await reader.generations(WANTED.id) == [9, 8]


async def test_a_node_with_another_key_says_so(world: World) -> None:
    await world.vault.publish(generation(5))
    stranger = SealedVault(world.bucket, Seals([b"t" * 32]), [CA], now=world.clock)
    assert await stranger.newest(WANTED.id) is None
    assert stranger.sealed_elsewhere == {WANTED.id}
    assert stranger.skipped == {Reason.OTHER_KEY: 1}
    assert stranger.unusable == {WANTED.id: "other_key"}
    await stranger.publish(generation(6))
    assert await stranger.newest(WANTED.id) is not None
    assert not stranger.sealed_elsewhere
    assert not stranger.unusable


async def test_keys_are_rotated_node_by_node(world: World) -> None:
    await world.vault.publish(generation(5))
    rotated = world.node((b"t" * 32, SECRET))
    found = await rotated.newest(WANTED.id)
    assert found is not None
    await rotated.publish(generation(6))
    last = SealedVault(world.bucket, Seals([b"t" * 32]), [CA], now=world.clock)
    found = await last.newest(WANTED.id)
    assert found is not None
    assert found.fence == 6


async def test_listed_and_not_there_is_no_reason_for_anything(world: World) -> None:
    for fence in (5, 6):
        await world.vault.publish(generation(fence))
    listed = list(world.bucket.objects)

    async def stale(prefix: str) -> list[str]:
        return sorted(key for key in listed if key.startswith(prefix))

    world.bucket.list = stale  # type: ignore[method-assign]
    del world.bucket.objects[world.key(6)]
    reader = world.other()
    found = await reader.newest(WANTED.id)
    assert found is not None
    assert found.fence == 5
    assert reader.skipped == {Reason.VANISHED: 1}
    kept = await world.node().newest(WANTED.id)  # whose mirror has it
    assert kept is not None
    assert kept.fence == 6


# --- the mirror ---


async def test_a_mirror_that_has_more_than_the_bucket(world: World) -> None:
    await world.vault.publish(generation(5))
    assert (await world.vault.publish_locally(generation(6))).is_kept
    found = await world.node().newest(WANTED.id)
    assert found is not None
    assert found.fence == 6
    assert await world.vault.generations(WANTED.id) == [5]
    node = world.node()
    assert await node.upload_local(WANTED.id)
    assert not await node.upload_local(WANTED.id)
    assert await world.other().newest(WANTED.id) == found
    assert world.bucket.objects == world.mirror.objects


async def test_nothing_local_is_uploaded_over_something_newer(world: World) -> None:
    assert not await world.vault.upload_local(WANTED.id)
    await world.vault.publish_locally(generation(5))
    await world.other().publish(generation(6))
    assert not await world.vault.upload_local(WANTED.id)
    assert await world.vault.generations(WANTED.id) == [6]


async def test_a_spoilt_copy_is_replaced(world: World) -> None:
    await world.vault.publish(generation(5))
    (key,) = world.mirror.objects
    world.mirror.objects[key] = b"spoilt"
    assert await world.node().newest_local(WANTED.id) is None
    node = world.node()
    found = await node.newest(WANTED.id)
    assert found is not None
    assert node.skipped == {Reason.CORRUPT: 1}
    assert world.mirror.objects == world.bucket.objects


async def test_a_copy_is_read_once(world: World) -> None:
    await world.vault.publish(generation(5))
    reads: list[str] = []
    get = world.bucket.get

    async def counted(key: str) -> bytes | None:
        reads.append(key)
        return await get(key)

    world.bucket.get = counted  # type: ignore[method-assign]
    reader = world.other()
    for _ in range(5):
        await reader.newest(WANTED.id)
    assert len(reads) == 1


async def test_the_mirror_keeps_the_last_generations_only(world: World) -> None:
    reader = SealedVault(world.bucket, Seals([SECRET]), [CA], mirror=(copies := MemoryBucket()))
    for fence in range(1, 8):
        await world.vault.publish(generation(fence))
        await reader.newest(WANTED.id)
    assert sorted(key.split("/")[-1][:12] for key in copies.objects) == [f"{n:012}" for n in (5, 6, 7)]


# --- what goes ---


async def test_older_generations_go_when_the_newest_is_proved(world: World) -> None:
    for fence in range(1, 6):
        await world.vault.publish(generation(fence))
    assert await world.vault.prune(WANTED.id) == 0
    world.now += timedelta(hours=23, minutes=59)
    assert await world.vault.prune(WANTED.id) == 0
    world.now += timedelta(minutes=1)
    assert await world.vault.prune(WANTED.id) == 2
    assert await world.vault.generations(WANTED.id) == [5, 4, 3]
    assert await world.vault.prune(WANTED.id) == 0


async def test_nothing_goes_while_the_newest_does_not_load(world: World) -> None:
    for fence in range(1, 6):
        await world.vault.publish(generation(fence))
    world.bucket.objects[world.key(5)] = b"spoilt"
    world.now += timedelta(days=300)
    assert await world.vault.prune(WANTED.id) == 0
    assert len(await world.vault.generations(WANTED.id)) == 5


async def test_short_lived_certificates_do_not_pile_up(world: World) -> None:
    """One an hour: none is ever proved before the next comes."""
    for fence in range(1, 15):
        world.now += timedelta(hours=1)
        await world.vault.publish(generation(fence, issued_at=world.now, lifetime=timedelta(hours=3)))
        await world.vault.prune(WANTED.id)
    assert await world.vault.generations(WANTED.id) == [14, 13, 12]
    assert KEPT_GENERATIONS == 3


# --- accounts ---


async def test_accounts_are_kept_for_each_ca(world: World) -> None:
    account = Account(CA, '{"kty": "EC", "d": "secret"}', "https://ca.example.test/acct/1")
    assert await world.vault.account(CA) is None
    await world.vault.put_account(account, 5)
    assert await world.other().account(CA) == account
    assert await world.vault.account(SECOND_CA) is None
    assert await world.node().account_local(CA) == account
    assert list(world.bucket.objects) == [f"tls/v1/{ca_id(CA)}/account/000000000005.bin"]
    assert b"secret" not in world.bucket.objects[world.key(5, "account")]
    assert "secret" not in repr(account)


async def test_a_key_that_was_rolled_over_under_the_same_fence(world: World) -> None:
    for number in range(6):
        await world.vault.put_account(Account(CA, f"key {number}", "uri"), 5)
    await world.vault.put_account(Account(CA, "of a stale leader", "uri"), 4)
    found = await world.other().account(CA)
    assert found is not None
    assert found.key_json == "key 5"
    names = sorted(key.rpartition("/")[2] for key in world.bucket.objects)
    assert names == ["000000000004.bin", *(f"000000000005-{turn}.bin" for turn in (4, 5, 6))]


async def test_an_account_that_does_not_open_leaves_the_one_before(world: World) -> None:
    for fence in (5, 6):
        await world.vault.put_account(Account(CA, f"key {fence}"), fence)
    world.bucket.objects[world.key(6, "account")] = b"spoilt"
    found = await world.vault.account(CA)
    assert found is not None
    assert found.key_json == "key 5"
    assert world.vault.skipped == {Reason.CORRUPT: 1}


# --- journals ---


def journal(fence: int, *, ca: str = CA, begun_at: datetime = NOW, wanted: Wanted = WANTED) -> Journal:
    return Journal(wanted, fence, ca, f"https://ca.example.test/order/{fence}", b"csr", b"key", begun_at)


async def test_whoever_takes_over_finds_the_order(world: World) -> None:
    rsa = Wanted(WANTED.names, KeyType.RSA2048, "shortlived")
    for each in (journal(5), journal(6, wanted=rsa)):
        await world.vault.put_journal(each)
        assert await world.other().journal(each.wanted.id) == each
    await world.vault.drop_journal(WANTED.id)
    assert await world.vault.journal(WANTED.id) is None
    assert await world.vault.journal(rsa.id) is not None
    await world.vault.drop_journal(WANTED.id)


async def test_the_last_order_supersedes_those_before(world: World) -> None:
    second = journal(6, begun_at=NOW + timedelta(seconds=1))
    third = journal(6, ca=SECOND_CA, begun_at=NOW + timedelta(seconds=2))
    for each in (journal(5), journal(6), second, third):
        await world.vault.put_journal(each)
        assert await world.other().journal(WANTED.id) == each
        assert len(world.bucket.objects) == 1


async def test_what_a_successor_has_begun_stays(world: World) -> None:
    await world.vault.put_journal(journal(5))
    await world.other().put_journal(journal(6))
    await world.vault.put_journal(journal(5))
    await world.vault.drop_journal(WANTED.id, up_to=5)
    assert await world.vault.journal(WANTED.id) == journal(6)


async def test_of_two_orders_under_one_fence_the_later(world: World) -> None:
    """As a node leaves them that died before it could remove the first."""
    later = journal(5, begun_at=NOW + timedelta(seconds=9))
    left = dict(world.bucket.objects)
    for each in (later, journal(5, ca=SECOND_CA)):
        world.bucket.objects.clear()
        await world.vault.put_journal(each)
        left |= world.bucket.objects
    world.bucket.objects.update(left)
    assert len(left) == 2
    assert await world.other().journal(WANTED.id) == later


# --- challenges ---


async def test_any_node_answers(world: World) -> None:
    assert await world.vault.challenge(TOKEN) is None
    await world.vault.put_challenge(TOKEN, f"{TOKEN}.thumbprint")
    assert await world.other().challenge(TOKEN) == f"{TOKEN}.thumbprint"
    await world.vault.put_challenge(TOKEN, f"{TOKEN}.thumbprint")
    assert list(world.bucket.objects) == [f"tls/v1/challenges/{TOKEN}"]
    await world.vault.drop_challenge(TOKEN)
    await world.vault.drop_challenge(TOKEN)
    assert await world.other().challenge(TOKEN) is None


@pytest.mark.parametrize("token", ["", "short", "../../account", "a" * 200, "ä" * 30, "a" * 30 + "/x"])
async def test_what_is_no_token_costs_no_request(world: World, token: str) -> None:
    world.bucket.get = None  # type: ignore[assignment,method-assign]
    assert await world.vault.challenge(token) is None
    with pytest.raises(ValueError, match="token"):
        await world.vault.put_challenge(token, f"{token}.thumbprint")


async def test_an_answer_that_is_not_of_the_token_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="not that of the token"):
        await world.vault.put_challenge(TOKEN, "other.thumbprint")


async def test_who_can_write_into_the_bucket_cannot_make_us_answer(world: World) -> None:
    """An answer of a stranger's account would give him certificates for our names."""
    other = "b" * 43
    await world.vault.put_challenge(other, f"{other}.thumbprint")
    for planted in (f"{TOKEN}.theirs".encode(), world.bucket.objects[CHALLENGES + other], b""):
        world.bucket.objects[CHALLENGES + TOKEN] = planted
        assert await world.vault.challenge(TOKEN) is None
    assert world.vault.skipped == {Reason.CORRUPT: 1, Reason.OTHER_VERSION: 1, Reason.MISPLACED: 1}


async def test_challenges_end_after_an_hour(world: World) -> None:
    await world.vault.put_challenge(TOKEN, f"{TOKEN}.thumbprint")
    world.now += timedelta(minutes=30)
    young = "y" * 43
    await world.vault.put_challenge(young, f"{young}.thumbprint")
    world.bucket.objects[CHALLENGES + "s" * 30] = b"does not open"
    world.bucket.objects[CHALLENGES + "ünknown, not ours"] = b"stays"
    assert await world.vault.sweep() == 0
    world.now += timedelta(minutes=31)
    assert await world.vault.challenge(TOKEN) is None
    assert await world.vault.sweep() == 1
    assert await world.vault.challenge(young) == f"{young}.thumbprint"
    world.now += timedelta(minutes=30)
    assert await world.vault.sweep() == 2
    assert list(world.bucket.objects) == [CHALLENGES + "ünknown, not ours"]
