"""What trace fields say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sending.way import LOOP_FIELD, MAX_RECEIVED_FIELDS, read_way

ANN = "ann@example.test"


@pytest.mark.parametrize(
    ("value", "hops"),
    [("1", 1), ("7", 7), ("", 1), ("-3", 1), ("x", 1), ("99999", 1), ("0", 1), ("\u0663", 1)],
)
def test_hops(value: str, hops: int) -> None:
    assert read_way(f"{LOOP_FIELD}: {value}\r\n".encode()).hops == hops
    assert read_way(f"a: b\r\n{LOOP_FIELD.upper()} :{value}\r\n\r\n".encode()).hops == hops


def test_what_was_sent_on_here_does_not_loop() -> None:
    here_before = f"Delivered-To: {ANN}\r\n".encode()
    assert read_way(here_before).is_looping(ANN)
    assert not read_way(here_before).is_looping("bob@example.test")
    sent_on = here_before + f"{LOOP_FIELD}: 1\r\n".encode()
    assert not read_way(sent_on).is_looping(ANN)
    assert read_way(sent_on + b"Received: x\r\n" * (MAX_RECEIVED_FIELDS + 1)).is_looping(ANN)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_octets(header: bytes) -> None:
    way = read_way(b"Received: a\r\n" + header)
    assert way.received_fields >= 1
