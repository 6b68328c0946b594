from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import codec
from cluster.address import Address
from cluster.compression import CLEAR, DATAGRAM, END, STREAM, Limit, decompress, open_message
from cluster.errors import PacketRejected, Reason
from cluster.messages import NodeRecord, PushPull, State

from . import lzw

LIMIT = Limit(1 << 20, 1 << 18)


def refused(packed: bytes, limit: Limit = LIMIT) -> Reason:
    with pytest.raises(PacketRejected) as caught:
        decompress(packed, limit=limit)
    return caught.value.reason


@given(st.binary(max_size=2000))
@settings(max_examples=100)
def test_round_trip(plain: bytes) -> None:
    assert decompress(lzw.compress(plain), limit=LIMIT) == plain


@pytest.mark.parametrize("size", [1, 253, 254, 255, 256, 257, 3835, 3836, 3837, 3838, 3839, 4095, 9000])
@pytest.mark.parametrize("alphabet", [1, 2, 5, 256])
def test_round_trip_where_the_width_grows_and_the_table_is_full(size: int, alphabet: int) -> None:
    rng = random.Random(size)
    plain = bytes(rng.randrange(alphabet) for _ in range(size))
    assert decompress(lzw.compress(plain), limit=LIMIT) == plain


def test_full_table_that_is_never_cleared() -> None:
    rng = random.Random(1)
    plain = bytes(rng.randrange(256) for _ in range(6000))
    # one literal after another: each adds an entry until there is no room, then codes stay at 12 bits
    codes, width, newest = [(CLEAR, 9)], 9, 257
    for byte in plain:
        codes.append((byte, width))
        newest += 1
        if newest == 1 << width and width < 12:
            width += 1
    codes.append((END, width))
    assert decompress(lzw.packed(codes), limit=LIMIT) == plain


def test_code_that_names_the_entry_it_completes() -> None:
    assert (
        decompress(lzw.packed([(CLEAR, 9), (97, 9), (258, 9), (259, 9), (END, 9)]), limit=Limit(6, 5))
        == b"aaaaaa"
    )


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ([], Reason.COMPRESSION),
        ([(CLEAR, 9), (97, 9)], Reason.COMPRESSION),  # no end
        ([(CLEAR, 9), (258, 9), (END, 9)], Reason.COMPRESSION),  # an entry before there is one
        ([(CLEAR, 9), (97, 9), (259, 9), (END, 9)], Reason.COMPRESSION),
        ([(CLEAR, 9), (97, 9), (98, 9), (CLEAR, 9), (258, 9), (END, 9)], Reason.COMPRESSION),
    ],
)
def test_damaged(codes: list[tuple[int, int]], reason: Reason) -> None:
    assert refused(lzw.packed(codes)) is reason


def test_bomb_ends_at_the_limit() -> None:
    bomb = lzw.compress(bytes(1_000_000))
    assert len(bomb) < 3_000
    assert refused(bomb, DATAGRAM) is Reason.OVERSIZED
    assert len(decompress(bomb, limit=Limit(1_000_000, 3_000))) == 1_000_000


class Reads(bytes):
    """Counts how often something is read of it: eight octets at a time."""

    reads = 0

    def __getitem__(self, place: Any) -> Any:
        self.reads += 1
        return super().__getitem__(place)


@pytest.mark.parametrize("limit", [DATAGRAM, STREAM])
def test_no_more_codes_are_read_than_allowed(limit: Limit) -> None:
    """Codes are what unpacking costs, and these stand for the least."""
    codes = [(CLEAR, 9), (97, 9)] * (limit.codes // 2 - 1)
    assert len(decompress(lzw.packed([*codes, (CLEAR, 9), (END, 9)]), limit=limit)) == limit.codes // 2 - 1
    more = Reads(lzw.packed([(CLEAR, 9)] * (limit.codes + 1) + [(END, 9)]))
    assert refused(more, limit) is Reason.OVERSIZED
    assert more.reads <= limit.codes * 9 // 64 + 2


def test_what_is_too_long_for_its_codes_is_not_read_at_all() -> None:
    bulky = Reads(bytes(STREAM.codes * 2))
    assert refused(bulky, STREAM) is Reason.OVERSIZED
    assert bulky.reads == 0


def test_a_thousand_agents_fit() -> None:
    chance = random.Random(1)
    records = [record(number, chance) for number in range(1000)]
    state = codec.encode(PushPull(tuple(records), chance.randbytes(10_000), True))
    opened = decompress(lzw.compress(state), limit=Limit(STREAM.octets, STREAM.codes * 5 // 8))
    assert opened == state


def record(number: int, chance: random.Random) -> NodeRecord:
    tags = {"role": "mail", "dc": "eu-west-1", "id": chance.randbytes(16).hex()}
    meta = b"\xff" + msgpack.packb(tags)
    address = Address(f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}", 7946)
    return NodeRecord(f"node-{number}.example.com", address, meta, chance.randrange(1 << 20), State.ALIVE)


def test_endless_clears_are_refused_before_they_are_read() -> None:
    assert refused(Reads(lzw.packed([(CLEAR, 9)] * 2000)), Limit(1000, 1000)) is Reason.OVERSIZED


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (lzw.message(b"text", algorithm=1), Reason.COMPRESSION),
        (lzw.message(b""), Reason.COMPRESSION),
        (lzw.message(b"text")[:-1], Reason.TRUNCATED),
        (b"\x09", Reason.TRUNCATED),
        (b"\x09\xc0", Reason.MALFORMED),
    ],
)
def test_compress_message_that_is_none(raw: bytes, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        open_message(raw, limit=LIMIT)
    assert caught.value.reason is reason


def test_compress_message() -> None:
    assert open_message(lzw.message(b"text"), limit=Limit(4, 6)) == b"text"
