"""One spelling per address."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.addresses import BadAddress, canonical, split_detail


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("ann@example.org", "ann@example.org"),
        (" Ann.Smith@EXAMPLE.org ", "ann.smith@example.org"),
        ("ann@example.org.", "ann@example.org"),
        ("ann+Work@example.org", "ann+work@example.org"),
        ("u\u0308ser@example.org", "\u00fcser@example.org"),
        ("ann@xn--bcher-kva.example", "ann@bücher.example"),
        ("ann@BÜCHER.example", "ann@bücher.example"),
        ('"a@b"@example.org', '"a@b"@example.org'),
    ],
)
def test_canonical(written: str, key: str) -> None:
    assert canonical(written) == key
    assert canonical(key) == key


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ann",
        "@example.org",
        "ann@",
        "ann@.",
        "ann smith@example.org",
        "ann@exam\tple.org",
        "ann\0@example.org",
        "ann\r\n@example.org",
        "\ud800@example.org",
        "ann@xn--\u00e4.example",
        "a" * 320 + "@example.org",
    ],
)
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(BadAddress):
        canonical(written)


@settings(max_examples=200)
@given(st.text(max_size=60), st.sampled_from(["", "@", "@example.org", "@xn--", "@xn--a."]))
def test_any_text_has_one_key_or_none(text: str, tail: str) -> None:
    try:
        key = canonical(text + tail)
    except BadAddress:
        return
    assert canonical(key) == key
    key.encode()
    local, _, domain = key.rpartition("@")
    assert local
    assert domain


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("ann@example.org", ("ann@example.org", "")),
        ("ann+work@example.org", ("ann@example.org", "work")),
        ("ann+a+b@example.org", ("ann@example.org", "a+b")),
        ("ann+@example.org", ("ann@example.org", "")),
        ("+ann@example.org", ("+ann@example.org", "")),
    ],
)
def test_split_detail(address: str, parts: tuple[str, str]) -> None:
    assert split_detail(address) == parts
