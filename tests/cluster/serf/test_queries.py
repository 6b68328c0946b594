from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.address import Address
from cluster.effects import QueryAnswered, QueryAsked
from cluster.serf.codec import decode, encode
from cluster.serf.filters import encode_filters
from cluster.serf.messages import Query, QueryFlag, QueryResponse, Relay

from .nodes import Node, address_of, at, carry, network, rejected


def query(number: int = 5, **changes: object) -> Query:
    plain = Query(3, number, address_of(9), "n9", (), 0, 0, 2.0, "uptime", b"?")
    return replace(plain, **changes)  # type: ignore[arg-type]


def answers(node: Node) -> list[tuple[str, bytes | None]]:
    return sorted(((a.node, a.payload) for a in node.told(QueryAnswered)), key=repr)


def test_all_are_asked_and_answer() -> None:
    nodes = network(3)
    number = nodes[0].serf.ask("uptime", b"?", at(0), wants_ack=True)
    carry(nodes)
    assert answers(nodes[0]) == [("n1", None), ("n2", None), ("n3", None)]
    for node in nodes:
        (asked,) = node.told(QueryAsked)
        assert (asked.name, asked.payload, asked.source_node, asked.deadline) == ("uptime", b"?", "n1", 3.2)
        node.serf.respond(asked.token, node.name.encode(), at(1))
    carry(nodes)
    assert answers(nodes[0]) == [("n1", b"n1"), ("n2", b"n2"), ("n3", b"n3")]
    assert nodes[0].serf.next_deadline() == 3.2
    nodes[0].serf.tick(at(3.2))
    assert nodes[0].told(QueryAnswered) == [QueryAnswered(number, "", None, is_over=True)]


def test_acks_and_answers_go_straight_to_who_asked() -> None:
    node = Node(1)
    node.hear(encode(query(flags=QueryFlag.ACK)))
    (asked,) = node.told(QueryAsked)
    node.serf.respond(asked.token, b"42", at(1))
    assert [(to, part[:1], decode(part[1:])) for to, part in node.sent] == [
        (address_of(9), b"\x08", QueryResponse(3, 5, "n1", is_ack=True)),
        (address_of(9), b"\x08", QueryResponse(3, 5, "n1", is_ack=False, payload=b"42")),
    ]


def test_the_same_query_is_heard_once_and_forwarded_once() -> None:
    node = Node(1)
    raw = encode(query())
    for _ in range(3):
        node.hear(raw)
    assert len(node.told(QueryAsked)) == 1
    assert [node.serf.broadcasts(1000, 3, "") for _ in range(3)] == [[raw], [raw], []]
    assert node.serf.figures()["serf_queries_repeated"] == 2


def test_other_queries_of_the_same_time_are_others() -> None:
    node = Node(1)
    node.hear(encode(query(5)))
    node.hear(encode(query(6)))
    assert len(node.told(QueryAsked)) == 2


def test_no_broadcast_is_obeyed() -> None:
    node = Node(1)
    node.hear(encode(query(flags=QueryFlag.NO_BROADCAST)))
    assert len(node.told(QueryAsked)) == 1
    assert not node.serf.has_broadcasts()


@pytest.mark.parametrize(
    ("nodes", "tags", "is_for"),
    [
        ([], {}, True),
        (["n1", "n2"], {}, True),
        (["n2"], {}, False),
        ([], {"role": "mail"}, True),
        ([], {"role": "ai"}, True),  # anywhere in it
        ([], {"role": "^ai"}, False),
        ([], {"role": "^(mail|web)$", "dc": "[ab]"}, True),
        ([], {"role": "mail", "dc": "^x"}, False),
        (["n2"], {"role": "mail"}, False),
        ([], {"absent": "^$"}, True),
        ([], {"absent": "."}, False),
        ([], {"role": "(?P<x>mail)"}, False),  # not understood: nobody
    ],
)
def test_filters_say_who_answers_and_all_forward(
    nodes: list[str], tags: dict[str, str], is_for: bool
) -> None:
    node = Node(1, tags={"role": "mail", "dc": "a"})
    node.hear(encode(query(flags=QueryFlag.ACK, filters=encode_filters(nodes, tags))))
    assert bool(node.told(QueryAsked)) is is_for
    assert bool(node.sent) is is_for
    assert node.serf.has_broadcasts()


@pytest.mark.parametrize(
    "filters", [(b"",), (b"\x02x",), (b"\x00\x05",), (b"\x00\x91",), (b"\x01\x05",), (b"\x00\x90",) * 17]
)
def test_damaged_filters_are_for_nobody(filters: tuple[bytes, ...]) -> None:
    node = Node(1)
    assert rejected(node, encode(query(filters=filters)))
    assert node.told(QueryAsked) == []


def test_the_asker_filters_itself_too() -> None:
    nodes = network(2)
    nodes[0].serf.ask("uptime", b"", at(0), nodes=["n2"], wants_ack=True)
    carry(nodes)
    assert answers(nodes[0]) == [("n2", None)]


def test_each_answers_once() -> None:
    node = Node(1)
    number = node.serf.ask("x", b"", at(0))
    node.emitted.clear()
    for _ in range(2):
        node.hear(encode(QueryResponse(1, number, "n2", is_ack=False, payload=b"a")))
        node.hear(encode(QueryResponse(1, number, "n2", is_ack=True)))
    node.hear(encode(QueryResponse(1, number + 1, "n2", is_ack=True)))
    assert answers(node) == [("n2", None), ("n2", b"a")]
    assert node.serf.figures()["serf_responses_late"] == 3


def test_after_the_end_nothing_is_told() -> None:
    node = Node(1)
    number = node.serf.ask("x", b"", at(0), timeout_s=1.0)
    node.serf.tick(at(1))
    node.told(QueryAnswered)
    node.hear(encode(QueryResponse(1, number, "n2", is_ack=True)))
    assert node.told(QueryAnswered) == []


def test_answering_is_for_the_time_of_the_query_and_once() -> None:
    node = Node(1)
    node.hear(encode(query(5)))
    node.hear(encode(query(6)))
    first, second = (asked.token for asked in node.told(QueryAsked))
    node.serf.respond(first, b"", at(2))
    with pytest.raises(LookupError):
        node.serf.respond(first, b"", at(2))
    with pytest.raises(LookupError):
        node.serf.respond(second, b"", at(2.1))
    with pytest.raises(LookupError):
        node.serf.respond(99, b"", at(0))


def test_sizes_are_limited_both_ways() -> None:
    node = Node(1)
    with pytest.raises(ValueError, match="1024"):
        node.serf.ask("x", bytes(1000), at(0))
    node.hear(encode(query()))
    (asked,) = node.told(QueryAsked)
    with pytest.raises(ValueError, match="1024"):
        node.serf.respond(asked.token, bytes(1000), at(0))
    node.serf.respond(asked.token, bytes(900), at(0))  # and may still be answered


def test_filters_are_bounded_for_the_asker_too() -> None:
    node = Node(1)
    with pytest.raises(ValueError, match="16 filters"):
        node.serf.ask("x", b"", at(0), tags={f"t{n}": "" for n in range(17)})
    node.serf.ask("x", b"", at(0), tags={f"t{n}": "" for n in range(16)})


def test_open_queries_are_bounded() -> None:
    node = Node(1)
    for number in range(300):
        node.hear(encode(query(number, ltime=3 + number)))
    tokens = [asked.token for asked in node.told(QueryAsked)]
    with pytest.raises(LookupError):
        node.serf.respond(tokens[0], b"", at(0))
    node.serf.respond(tokens[-1], b"", at(0))
    for _ in range(256):
        node.serf.ask("x", b"", at(0))
    with pytest.raises(ValueError, match="256"):
        node.serf.ask("x", b"", at(0))


@pytest.mark.parametrize(("members", "timeout_s"), [(1, 3.2), (9, 3.2), (10, 6.4), (100, 9.6)])
def test_default_timeout_grows_with_the_cluster(members: int, timeout_s: float) -> None:
    node = Node(1)
    view = node.view()
    node.members.rows.update({f"x{n}": view for n in range(members - 1)})
    node.serf.ask("x", b"", at(10))
    assert node.serf.next_deadline() == pytest.approx(10 + timeout_s)


# --- relays ---


def test_answers_are_also_relayed_by_others_when_wanted() -> None:
    nodes = network(4)
    nodes[0].hear(encode(query(flags=QueryFlag.ACK, relay_factor=2)))
    direct, *relays = nodes[0].sent
    assert direct[0] == address_of(9)
    assert len(relays) == 2
    for to, part in relays:
        assert to in {node.address for node in nodes[1:]}
        assert decode(part[1:]) == Relay(address_of(9), "n9", direct[1][1:])


def test_what_is_to_be_relayed_goes_on() -> None:
    node = Node(1)
    response = encode(QueryResponse(1, 2, "n2", is_ack=True))
    node.hear(encode(Relay(Address("10.1.1.1", 99), "n3", response)))
    assert node.sent == [(Address("10.1.1.1", 99), b"\x08" + response)]
    assert node.serf.figures()["serf_relayed"] == 1


def test_only_responses_are_relayed() -> None:
    node = Node(1)
    inner = encode(Relay(address_of(3), "n3", encode(QueryResponse(1, 2, "n2", is_ack=True))))
    assert rejected(node, encode(Relay(address_of(2), "n2", inner))) == "forged"
    assert node.sent == []


# --- of Serf itself ---


def test_ping_is_acknowledged_and_not_told() -> None:
    nodes = network(3)
    nodes[0].serf.ask("_serf_ping", b"", at(0), wants_ack=True)
    carry(nodes)
    assert answers(nodes[0]) == [("n1", None), ("n2", None), ("n3", None)]
    assert not any(node.told(QueryAsked) for node in nodes)


def test_names_of_newer_agents_are_not_told() -> None:
    node = Node(1)
    node.hear(encode(query(name="_serf_new")))
    assert node.told(QueryAsked) == []
    assert node.sent == []
