from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import PacketRejected, Reason
from cluster.serf.tags import decode_tags, encode_tags, is_sora


def test_wire_form_is_that_of_an_agent() -> None:
    assert encode_tags({"role": "mail", "dc": "a"}) == b"\xff\x82\xa2dc\xa1a\xa4role\xa4mail"


def test_long_values_are_raw16_never_str8_or_bin() -> None:
    assert encode_tags({"k": "v" * 40}) == b"\xff\x81\xa1k\xda\x00\x28" + b"v" * 40


def test_bytes_without_the_magic_are_the_role() -> None:
    assert decode_tags(b"web") == {"role": "web"}


def test_nothing_is_no_tags() -> None:
    assert decode_tags(b"") == {}
    assert decode_tags(b"\xff\xc0") == {}


def test_str8_and_bin8_of_newer_writers_are_read() -> None:
    assert decode_tags(b"\xff" + msgpack.packb({"k": "v" * 40, "b": b"x"})) == {"k": "v" * 40, "b": "x"}


def test_512_bytes_are_the_limit_of_what_is_sent() -> None:
    value = "v" * (512 - 1 - 1 - 2 - 3)
    assert len(encode_tags({"k": value})) == 512
    with pytest.raises(ValueError, match="513 bytes"):
        encode_tags({"k": value + "v"})


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (b"\xff" + bytes(600), Reason.OVERSIZED),
        (b"\xff\x81\xa1k", Reason.TRUNCATED),
        (b"\xff\x93\x01\x02\x03", Reason.MALFORMED),
        (b"\xff\x81\xa1k\x05", Reason.MALFORMED),
        (b"\xff\x81\x05\xa1v", Reason.MALFORMED),
        (b"\xff\x80\x00", Reason.MALFORMED),
        (b"\xff\xdf\xff\xff\xff\xff", Reason.MALFORMED),
    ],
)
def test_damaged_tags_are_rejected(meta: bytes, reason: Reason) -> None:
    with pytest.raises(PacketRejected) as caught:
        decode_tags(meta)
    assert caught.value.reason is reason


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5))
@settings(max_examples=100, deadline=None)
def test_round_trip(tags: dict[str, str]) -> None:
    assert decode_tags(encode_tags(tags)) == tags


@given(st.binary(max_size=520))
@settings(max_examples=200, deadline=None)
def test_any_meta_is_tags_or_rejected(meta: bytes) -> None:
    try:
        tags = decode_tags(b"\xff" + meta)
    except PacketRejected:
        return
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in tags.items())


def test_sora_nodes_are_known_by_their_tag() -> None:
    assert is_sora({"sora": "0.1.0"})
    assert not is_sora({"role": "mail"})
