"""Units: what people write, what they get, and what they are told."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.units import (
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    Address,
    UnitError,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_network,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("14d", 1_209_600.0),
        ("720h", 2_592_000.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2w", 1_209_600.0),
        (" 30S ", 30.0),
        ("0", 0.0),
        ("0s", 0.0),
        (90, 90.0),
        (0.5, 0.5),
    ],
)
def test_duration(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 m", "5x", "-5m", "1h-3m", "5m30", "1e3s", "٣s", "1" * 20 + "s", "99999999999d"]
)
def test_duration_refuses(text: str) -> None:
    with pytest.raises(UnitError):
        parse_duration(text)


@pytest.mark.parametrize("value", [True, None, [], {}, -1, float("nan"), float("inf"), 1e300])
def test_duration_refuses_other_types(value: object) -> None:
    with pytest.raises(UnitError):
        parse_duration(value)  # type: ignore[arg-type]


def test_duration_without_unit_names_units() -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration("24")
    assert '"24h"' in caught.value.suggestion


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10gb", 10 << 30),
        ("50mb", 50 << 20),
        ("16kb", 16384),
        ("16KiB", 16384),
        ("1.5 GB", 3 << 29),
        ("100b", 100),
        ("65536", 65536),
        ("2t", 2 << 40),
        (7, 7),
    ],
)
def test_size(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "gb", "-1mb", "1xb", "1.0001kb", "10 g b", "9999999999tb", True, 1.5, None]
)
def test_size_refuses(text: object) -> None:
    with pytest.raises(UnitError):
        parse_size(text)  # type: ignore[arg-type]


@given(st.integers(0, MAX_DURATION_S * 1000))
def test_duration_round_trip(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@given(st.integers(0, MAX_SIZE_BYTES))
def test_size_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (300, "5m"),
        (5400, "1h30m"),
        (0, "0s"),
        (0.25, "250ms"),
        (86400, "1d"),
        (2_592_000, "30d"),
        (90.5, "1m30s500ms"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0b"), (1 << 30, "1gb"), (1536, "1536b"), (3 << 19, "1536kb")]
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "default", "address"),
    [
        (":143", None, Address("", 143)),
        ("10.0.0.1:143", None, Address("10.0.0.1", 143)),
        ("[::1]:143", None, Address("::1", 143)),
        ("mail.example.com", 24, Address("mail.example.com", 24)),
        ("mail.example.com:25", 24, Address("mail.example.com", 25)),
        ("fd00::1", 24, Address("fd00::1", 24)),
        ("[fd00::1]", 24, Address("fd00::1", 24)),
        ("/run/postgresql", 5432, Address("/run/postgresql", 5432)),
        (":0", None, Address("", 0)),
    ],
)
def test_address(text: str, default: int | None, address: Address) -> None:
    assert parse_address(text, default) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "143",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "[::1:143",
        "[::1]x",
        "[]:1",
        "a:b:c",
        "*:143",
        "ho st:1",
        "[127.0.0.1]:1",
        "host:٣",
        "-x:1",
        "[::1]:",
    ],
)
def test_address_refuses(text: str) -> None:
    with pytest.raises(UnitError):
        parse_address(text)


@given(st.text(max_size=40))
def test_parsers_only_raise_unit_errors(text: str) -> None:
    for parse in (parse_duration, parse_size, parse_address, parse_network):
        with contextlib.suppress(UnitError):
            parse(text)


@pytest.mark.parametrize(
    "address", [Address("::1", 143), Address("", 24), Address("10.0.0.1", 65535), Address("h.example", 1)]
)
def test_address_text_parses_back(address: Address) -> None:
    assert parse_address(str(address)) == address


def test_network() -> None:
    assert str(parse_network("10.0.0.0/8")) == "10.0.0.0/8"
    assert str(parse_network("192.0.2.1")) == "192.0.2.1/32"


def test_network_with_host_bits_says_which_was_meant() -> None:
    with pytest.raises(UnitError) as caught:
        parse_network("10.1.2.3/8")
    assert "10.0.0.0/8" in caught.value.suggestion
