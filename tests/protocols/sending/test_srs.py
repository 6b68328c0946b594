"""Senders that are rewritten, and found again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sending.srs import VALID_DAYS, BadSrs, Srs

HERE = Srs("here.test", b"one")
THERE = Srs("there.test", b"two")
TODAY = 20_779

LOCALS = st.text("abcdefghijklmnop.+-=_0123456789\u00e9", min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(local=LOCALS, day=st.integers(0, 40_000), age=st.integers(0, VALID_DAYS))
def test_a_sender_is_found_again(local: str, day: int, age: int) -> None:
    sender = f"{local}@away.test"
    rewritten = HERE.forward(sender, day)
    assert rewritten.endswith("@here.test")
    assert HERE.is_ours(rewritten)
    assert HERE.reverse(rewritten, day + age) == sender
    lowered = HERE.reverse(rewritten.lower(), day + age)
    assert lowered == sender.lower()


def test_form() -> None:
    rewritten = HERE.forward("Bob.Dole@away.test", TODAY)
    assert rewritten.startswith("SRS0=")
    assert rewritten.endswith("=away.test=Bob.Dole@here.test")


def test_a_chain_goes_back_hop_by_hop() -> None:
    third = Srs("third.test", b"three")
    first = HERE.forward("bob@away.test", TODAY)
    second = THERE.forward(first, TODAY)
    assert second.startswith("SRS1=")
    last = third.forward(second, TODAY)
    assert last.startswith("SRS1=")
    assert "there.test" not in last  # a report goes straight to who wrote SRS0
    assert len(last) <= len(second) + 1
    for each, srs in ((second, THERE), (last, third)):
        back = srs.reverse(each, TODAY)
        assert back == first
        assert HERE.reverse(back, TODAY) == "bob@away.test"


@pytest.mark.parametrize("sender", ["", "bob@here.test", "bob@HERE.test", '"a.b"@away.test', "bob"])
def test_what_stays_as_it_is(sender: str) -> None:
    assert HERE.forward(sender, TODAY) == sender


@pytest.mark.parametrize(
    "address",
    [
        "SRS0=aaaaaaaa=aa=away.test=bob@here.test",
        "SRS1=aaaaaaaa=away.test==aaaaaaaa=aa=x.test=bob@here.test",
        "SRS0=away.test=bob@here.test",
        "SRS0=@here.test",
        "srs1=aaaaaaaa=b@here.test",
    ],
)
def test_forged_addresses(address: str) -> None:
    assert HERE.is_ours(address)
    with pytest.raises(BadSrs):
        HERE.reverse(address, TODAY)


def test_changed_parts_other_secrets_and_other_domains_are_forged() -> None:
    rewritten = HERE.forward("bob@away.test", TODAY)
    for other in (
        rewritten.replace("bob", "carl"),
        rewritten.replace("away", "elsewhere"),
        HERE.forward("bob@away.test", TODAY + 1).partition("=away")[0] + "=away.test=carl@here.test",
    ):
        with pytest.raises(BadSrs):
            HERE.reverse(other, TODAY)
    with pytest.raises(BadSrs):
        Srs("here.test", b"other").reverse(rewritten, TODAY)
    with pytest.raises(BadSrs):
        THERE.reverse(rewritten, TODAY)
    assert Srs("here.test", b"new", (b"one",)).reverse(rewritten, TODAY) == "bob@away.test"


def test_old_ones_expire() -> None:
    rewritten = HERE.forward("bob@away.test", TODAY)
    assert HERE.reverse(rewritten, TODAY - 1) == "bob@away.test"  # another node's clock is a day ahead
    for day in (TODAY + VALID_DAYS + 1, TODAY + 500, TODAY - 2):
        with pytest.raises(BadSrs):
            HERE.reverse(rewritten, day)


@pytest.mark.parametrize("address", ["srs0@here.test", "ann@here.test", "SRS0=x@away.test", ""])
def test_what_is_not_ours(address: str) -> None:
    assert not HERE.is_ours(address)


def test_the_secret_is_not_shown() -> None:
    assert "one" not in repr(Srs("here.test", b"one"))
