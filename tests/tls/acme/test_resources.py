from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tls.acme.resources import (
    MAX_AUTHORISATIONS,
    NotAcme,
    parse_authorisation,
    parse_directory,
    parse_order,
)

TOKEN = "Cq5YGdXYIlJ6Cw3C2YX0hA"
DIRECTORY = {"newNonce": "https://ca/n", "newAccount": "https://ca/a", "newOrder": "https://ca/o"}
ORDER: dict[str, Any] = {"status": "pending", "authorizations": ["https://ca/1"], "finalize": "https://ca/f"}
HTTP = {"type": "http-01", "url": "https://ca/c", "status": "pending", "token": TOKEN}
AUTHORISATION: dict[str, Any] = {
    "status": "pending",
    "identifier": {"type": "dns", "value": "a.test"},
    "challenges": [{"type": "strange-07", "url": "https://ca/x", "status": "pending"}, HTTP],
}


def test_a_directory() -> None:
    directory = parse_directory(
        DIRECTORY | {"meta": {"externalAccountRequired": True, "profiles": {"short": "6 days\n"}}}
    )
    assert directory.needs_external_account
    assert directory.profiles == {"short": "6 days"}
    assert directory.renewal_info == ""


def test_an_order_and_its_problem() -> None:
    order = parse_order(ORDER | {"status": "invalid", "error": {"detail": "no"}})
    assert order.problem is not None
    assert order.problem.detail == "no"
    assert parse_order(ORDER).problem is None


def test_an_authorisation_with_challenges_of_unknown_kinds() -> None:
    authorisation = parse_authorisation(AUTHORISATION | {"wildcard": True})
    assert authorisation.label == "*.a.test"
    assert authorisation.challenge("dns-01") is None
    challenge = authorisation.challenge("http-01")
    assert challenge is not None
    assert challenge.token == TOKEN


@pytest.mark.parametrize("token", ["", "short", "../../etc/passwd-and-more-of-it", "a" * 129, TOKEN + "\n"])
def test_tokens_that_cannot_be_in_a_url(token: str) -> None:
    with pytest.raises(NotAcme):
        parse_authorisation(AUTHORISATION | {"challenges": [HTTP | {"token": token}]})


@pytest.mark.parametrize(
    "change",
    [
        {"status": ""},
        {"status": 5},
        {"finalize": None},
        {"authorizations": None},
        {"authorizations": [1]},
        {"authorizations": ["https://ca/1"] * (MAX_AUTHORISATIONS + 1)},
    ],
)
def test_orders_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(NotAcme):
        parse_order(ORDER | change)


JUNK = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=2) | st.just({})


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from([*ORDER, *AUTHORISATION, *DIRECTORY, "meta", "error", "certificate"]),
        JUNK,
        max_size=6,
    )
)
def test_junk_is_not_acme_and_nothing_else(change: dict[str, Any]) -> None:
    whole = DIRECTORY | ORDER | AUTHORISATION | change
    for parse in (parse_directory, parse_order, parse_authorisation):
        with contextlib.suppress(NotAcme):
            parse(whole)
