from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tls.acme.chains import choose_chain, top_issuer
from tls.selfsigned import self_signed

NOW = datetime(2031, 1, 1, tzinfo=UTC)


def chain(name: str) -> bytes:
    return self_signed([name], NOW)[0]


def test_the_root_is_that_of_the_last_certificate() -> None:
    assert top_issuer(chain("leaf") + chain("Old Root")) == "Old Root"


def test_the_first_that_leads_there_and_no_further() -> None:
    first, second = chain("A"), chain("B")

    def offered() -> Iterator[bytes]:
        yield first
        yield second
        raise AssertionError("asked for more than was needed")

    assert choose_chain(offered(), "B") == second
    assert choose_chain([first, second], "C") is None


def test_what_is_no_chain() -> None:
    with pytest.raises(ValueError):
        choose_chain([b"<html>"], "A")
