"""Orders at a real CA of the ACME protocol."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.support.challenges import ChallengeAnswers
from tests.support.pebble import Pebble, PebbleOptions, require_pebble
from tls.ports import Account
from tls.wanted import KeyType, Wanted

from .acme import Ordering, authority, key_size, verify


@pytest.fixture(scope="module")
def ca() -> Iterator[Pebble]:
    require_pebble()
    with Pebble(PebbleOptions(validity_s=3600)) as ca:
        yield ca


@pytest.fixture(autouse=True)
def _no_rules(ca: Pebble) -> None:
    ca.front.clear()


@pytest.fixture(scope="module")
def answers(ca: Pebble) -> Iterator[ChallengeAnswers]:
    with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
        yield answers


def fresh(*labels: str, key_type: KeyType = KeyType.P256) -> Wanted:
    """Names that no other test has used: nothing is validated already."""
    unique = uuid.uuid4().hex[:10]
    names = tuple(sorted(f"{label}.{unique}.example.test" for label in (labels or ("mail",))))
    return Wanted(names, key_type)


async def test_an_order_from_nothing_to_a_chain(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca, email="admin@example.test")
    account = await acme.account(None)
    ordering = Ordering(fresh("a", "b"), answers)
    issued = await acme.issue(account, ordering.wanted, ordering.steps())
    leaf = verify(issued.chain_pem, ca.root_pem())
    assert key_size(leaf) == ("ec", 256)
    assert ca.front.count("new-order") == ca.front.count("finalize") == 1
    assert not answers.answers
    first, second = ordering.wanted.names
    assert [step for step in ordering.done if step != "check"] == [
        "journal",
        f"publish {first}",
        f"publish {second}",
        f"withdraw {first}",
        f"withdraw {second}",
    ]


async def test_a_known_account_is_asked_for_and_kept(ca: Pebble) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    assert account.uri
    assert account.ca == ca.directory
    assert await acme.account(account) == account
    # with its key alone it is found again
    assert await acme.account(Account(account.ca, account.key_json)) == account
