from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.address import Address
from cluster.effects import NameConflict, QueryAnswered, QueryAsked
from cluster.errors import PacketRejected
from cluster.serf.codec import encode
from cluster.serf.conflicts import decode_known, encode_known
from cluster.serf.messages import QueryResponse
from cluster.serf.roster import Status

from .nodes import Node, address_of, at, carry, network

OTHER = address_of(77)


def vote(node: Node, voters: dict[str, Address | None]) -> list[NameConflict]:
    """``voters``: with the address by which they know our name."""
    node.serf.conflict(node.name, node.address, OTHER, at(0))
    node.serf.conflict(node.name, node.address, OTHER, at(20))
    node.emitted.clear()
    number = last_query(node)
    for name, address in voters.items():
        view = replace(node.view(), address=address) if address else None
        known = encode_known(view, Status.ALIVE)
        node.hear(encode(QueryResponse(1, number, name, is_ack=False, payload=known)))
    node.serf.tick(at(100))
    assert node.told(QueryAnswered) == []  # a vote is nobody else's business
    return node.told(NameConflict)


def last_query(node: Node) -> int:
    (number,) = node.serf._asking._open
    return number


def test_the_majority_stays() -> None:
    assert vote(Node(1), {"a": address_of(1), "b": address_of(1), "c": OTHER}) == []


def test_the_minority_goes() -> None:
    node = Node(1)
    voters: dict[str, Address | None] = {"a": OTHER, "b": node.address, "c": OTHER}
    assert vote(node, voters) == [NameConflict("n1", node.address, OTHER, is_lost=True)]


@pytest.mark.parametrize(("number", "is_lost"), [(2, False), (88, True)])
@pytest.mark.parametrize("voters", ["", "uo", "nn"])
def test_of_even_votes_the_greater_address_goes(number: int, is_lost: bool, voters: str) -> None:
    node = Node(number)
    known = {"u": node.address, "o": OTHER, "n": None}
    told = vote(node, {f"{vote}{n}": known[vote] for n, vote in enumerate(voters)})
    assert [conflict.is_lost for conflict in told] == [True] * is_lost


def test_it_is_told_once_a_minute_and_asked_once() -> None:
    node = Node(1)
    for now in (0, 11):
        node.serf.conflict("n1", node.address, OTHER, at(now))
    assert node.told(NameConflict) == []
    for now in (15, 16, 20, 74):
        node.serf.conflict("n1", node.address, OTHER, at(now))
    assert node.told(NameConflict) == [NameConflict("n1", node.address, OTHER)]
    assert len(node.serf._asking._open) == 1
    node.serf.tick(at(74))
    node.emitted.clear()
    node.serf.conflict("n1", node.address, OTHER, at(75))
    assert node.told(NameConflict) == [NameConflict("n1", node.address, OTHER)]
    node.serf.conflict("n1", node.address, OTHER, at(81))
    assert len(node.serf._asking._open) == 1


def test_a_claim_that_ends_is_neither_told_nor_voted_on() -> None:
    """That of a node that came back at another address, about itself, until its death is known."""
    node = Node(1)
    for now in (0, 3, 9, 100):
        node.serf.conflict("n1", node.address, OTHER, at(now))
    assert node.serf._asking._open == {}
    assert node.told(NameConflict) == []
    node.serf.conflict("n1", node.address, OTHER, at(120))
    assert len(node.serf._asking._open) == 1


def test_a_conflict_of_others_is_told_and_not_voted_on() -> None:
    node = Node(1)
    node.serf.conflict("n2", address_of(2), OTHER, at(0))
    node.serf.conflict("n2", address_of(2), OTHER, at(20))
    assert node.told(NameConflict) == [NameConflict("n2", address_of(2), OTHER)]
    assert not node.serf.has_broadcasts()


def test_members_answer_with_whom_they_know() -> None:
    nodes = network(3)
    nodes[0].serf.conflict("n1", nodes[0].address, OTHER, at(0))
    nodes[0].serf.conflict("n1", nodes[0].address, OTHER, at(20))
    carry(nodes)
    nodes[0].serf.tick(at(30))
    assert [conflict.is_lost for conflict in nodes[0].told(NameConflict)] == [False]
    assert not any(node.told(QueryAsked) for node in nodes)


def test_who_knows_nobody_says_so() -> None:
    assert decode_known(encode_known(None, Status.ALIVE)) is None
    node = Node(5)
    assert decode_known(encode_known(node.view(), Status.ALIVE)) == node.address


@pytest.mark.parametrize("raw", [b"", b"\x06", b"\x06\x80", b"\x05\xc0", b"\x06\x81\xa4Addr\xa1x"])
def test_damaged_answers_are_rejected(raw: bytes) -> None:
    with pytest.raises(PacketRejected):
        decode_known(raw)
