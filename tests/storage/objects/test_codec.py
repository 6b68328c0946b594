"""The codec: round trips, damage of every kind, keys, limits."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import struct
import tempfile

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import Corrupt
from storage.model import ContentHash
from storage.objects.codec import (
    COMPRESSED,
    FRAME_BYTES,
    FRAME_HEAD,
    HEADER,
    MAGIC,
    MAX_FRAME_BYTES,
    NO_KEY,
    Codec,
    KeyRing,
    parse_header,
)

KEY, OLD_KEY = b"k" * 32, b"o" * 32
CODECS = {
    "plain": Codec(compress=False),
    "zstd": Codec(),
    "sealed": Codec(KeyRing(KEY), compress=False),
    "sealed zstd": Codec(KeyRing(KEY)),
}
TEXT = b"Mail is words, words, words.\r\n"
SIZES = [0, 1, 127, 128, 20_000, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 7]


def digest(data: bytes) -> ContentHash:
    return ContentHash(hashlib.sha256(data).digest())


def text(size: int) -> bytes:
    return (TEXT * (size // len(TEXT) + 1))[:size]


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", ["text", "noise"])
def test_round_trip(codec: Codec, size: int, fill: str) -> None:
    data = text(size) if fill == "text" else random.Random(size).randbytes(size)
    frames = codec.encode(data, digest(data))
    assert len(frames) == max(1, -(-size // FRAME_BYTES))
    assert max(map(len, frames)) <= MAX_FRAME_BYTES + HEADER.size
    assert codec.decode_all(b"".join(frames), digest(data)) == data
    assert parse_header(frames[0]).size_bytes == size


def test_takes_every_kind_of_buffer(codec: Codec) -> None:
    data = text(FRAME_BYTES + 5)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            encoded = b"".join(codec.encode(mapped, digest(data)))
    assert codec.decode_all(memoryview(encoded), digest(data)) == data
    assert codec.decode_all(bytearray(encoded), digest(data)) == data


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(CODECS)), st.binary(max_size=600), st.lists(st.integers(1, 200), max_size=20))
def test_decoder_takes_pieces_of_any_size(name: str, data: bytes, cuts: list[int]) -> None:
    codec = CODECS[name]
    encoded = b"".join(codec.encode(data, digest(data)))
    decoder = codec.decoder(digest(data))
    plain = b""
    for cut in [*cuts, len(encoded)]:
        plain += b"".join(decoder.feed(encoded[:cut]))
        encoded = encoded[cut:]
    decoder.finish()
    assert plain == data


def test_decoder_gives_frames_as_they_complete(codec: Codec) -> None:
    data = random.Random(1).randbytes(3 * FRAME_BYTES)
    decoder = codec.decoder(digest(data))
    given = [b"".join(decoder.feed(frame)) for frame in codec.encode(data, digest(data))]
    assert [len(piece) for piece in given] == [FRAME_BYTES] * 3
    decoder.finish()


def test_compression_is_used_only_where_it_helps() -> None:
    words, noise = text(20_000), os.urandom(20_000)
    assert len(Codec().encode(words, digest(words))[0]) < 2_000
    assert len(Codec().encode(noise, digest(noise))[0]) == HEADER.size + FRAME_HEAD.size + 20_000
    assert len(CODECS["plain"].encode(words, digest(words))[0]) == HEADER.size + FRAME_HEAD.size + 20_000


def test_sealed_bodies_show_no_plaintext_and_differ_each_time() -> None:
    data = text(400)
    codec = CODECS["sealed"]
    first, second = (b"".join(codec.encode(data, digest(data))) for _ in range(2))
    assert TEXT not in first
    assert first != second


@pytest.mark.parametrize("size", [0, 5, 400, FRAME_BYTES + 300])
def test_every_flipped_bit_is_noticed(codec: Codec, size: int) -> None:
    data = text(size)
    encoded = b"".join(codec.encode(data, digest(data)))
    positions = range(len(encoded)) if len(encoded) < 700 else range(0, len(encoded), 4001)
    for at in positions:
        bad = bytearray(encoded)
        bad[at] ^= 1 << (at % 8)
        with pytest.raises(Corrupt):
            codec.decode_all(bad, digest(data))


@pytest.mark.parametrize("size", [0, 5, 400, FRAME_BYTES, FRAME_BYTES + 300])
def test_every_cut_and_every_addition_is_noticed(codec: Codec, size: int) -> None:
    data = random.Random(size).randbytes(size)
    frames = codec.encode(data, digest(data))
    encoded = b"".join(frames)
    for length in {0, 1, HEADER.size, HEADER.size + 3, len(encoded) // 2, len(encoded) - 1, len(frames[0])}:
        if length < len(encoded):
            with pytest.raises(Corrupt):
                codec.decode_all(encoded[:length], digest(data))
    with pytest.raises(Corrupt):
        codec.decode_all(encoded + b"\0", digest(data))
    with pytest.raises(Corrupt):
        codec.decode_all(encoded + frames[-1], digest(data))


def test_frames_cannot_be_reordered_or_taken_from_another_content() -> None:
    codec = CODECS["sealed"]
    one, two = random.Random(1).randbytes(3 * FRAME_BYTES), random.Random(2).randbytes(3 * FRAME_BYTES)
    a, b = codec.encode(one, digest(one)), codec.encode(two, digest(two))
    decoder = codec.decoder(digest(one))
    decoder.feed(a[0])
    with pytest.raises(Corrupt, match="frame 1"):
        decoder.feed(a[2])
    decoder = codec.decoder(digest(one))
    decoder.feed(a[0])
    with pytest.raises(Corrupt, match="frame 1"):
        decoder.feed(b[1])
    with pytest.raises(Corrupt):
        codec.decode_all(b"".join(b), digest(one))


def test_plain_body_of_another_content_does_not_match_its_hash() -> None:
    with pytest.raises(Corrupt, match="hash"):
        Codec().decode_all(b"".join(Codec().encode(b"one", digest(b"one"))), digest(b"two"))


def test_old_keys_and_plain_bodies_stay_readable() -> None:
    data = text(3_000)
    now = Codec(KeyRing(KEY, [OLD_KEY]))
    for written_by in (Codec(), Codec(KeyRing(OLD_KEY)), Codec(KeyRing(KEY))):
        assert now.decode_all(b"".join(written_by.encode(data, digest(data))), digest(data)) == data
    assert parse_header(now.encode(data, digest(data))[0]).key_id == KeyRing(KEY).current_id
    off_again = Codec(KeyRing(None, [KEY]))
    assert off_again.decode_all(b"".join(now.encode(data, digest(data))), digest(data)) == data
    assert not parse_header(off_again.encode(data, digest(data))[0]).is_sealed


def test_missing_key_is_named() -> None:
    data = text(10)
    encoded = b"".join(Codec(KeyRing(OLD_KEY)).encode(data, digest(data)))
    with pytest.raises(Corrupt, match="not configured"):
        Codec(KeyRing(KEY)).decode_all(encoded, digest(data))


def test_key_of_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyRing(b"short")


def bomb(declared: int) -> bytes:
    """A plain body whose only frame unpacks to far more than it should."""
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(64 << 20))
    import zlib

    head = FRAME_HEAD.pack(len(packed) | COMPRESSED, zlib.crc32(packed))
    return HEADER.pack(MAGIC, 1, 0, NO_KEY, declared) + head + packed


@pytest.mark.parametrize("declared", [0, 100, FRAME_BYTES])
def test_decompression_bomb_is_refused_before_it_unpacks(declared: int) -> None:
    with pytest.raises(Corrupt, match="unpack"):
        Codec().decode_all(bomb(declared), digest(b""))


def test_absurd_sizes_are_refused() -> None:
    with pytest.raises(Corrupt, match="contradicts"):
        parse_header(HEADER.pack(MAGIC, 1, 0, NO_KEY, 1 << 60))
    with pytest.raises(Corrupt, match="more than"):
        Codec().decode_all(HEADER.pack(MAGIC, 1, 0, NO_KEY, 9) + struct.pack(">II", 1 << 30, 0), digest(b""))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
@example(b"", True)
def test_any_bytes_are_corrupt_and_nothing_else(data: bytes, lead: bool) -> None:
    prefix = HEADER.pack(MAGIC, 1, 0, NO_KEY, 50) if lead else b""
    for codec in (Codec(), CODECS["sealed"]):
        with pytest.raises(Corrupt):
            codec.decode_all(prefix + data, digest(b"something else"))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(CODECS)), st.data())
def test_mangled_bodies_are_corrupt_and_nothing_else(name: str, draw: st.DataObject) -> None:
    data = text(900)
    encoded = bytearray(b"".join(CODECS[name].encode(data, digest(data))))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(encoded) - 1))
        stop = draw.draw(st.integers(at, min(len(encoded), at + 20)))
        encoded[at:stop] = draw.draw(st.binary(max_size=20))
    with contextlib.suppress(Corrupt):
        assert CODECS[name].decode_all(encoded, digest(data)) == data
