from __future__ import annotations

import pytest

from cluster.effects import UserEvent
from cluster.serf.codec import decode_push_pull, encode
from cluster.serf.messages import Happening

from .nodes import Node, at, carry, network, rejected


def test_everybody_hears_an_event_once() -> None:
    nodes = network(4)
    nodes[0].serf.send_event("deploy", b"\x00v1", at(1))
    nodes[0].serf.send_event("deploy", b"\x00v1", at(2))
    carry(nodes)
    expected = [UserEvent(1, "deploy", b"\x00v1", False), UserEvent(2, "deploy", b"\x00v1", False)]
    for node in nodes:
        assert sorted(node.told(UserEvent), key=lambda event: event.ltime) == expected


def test_each_node_forwards_as_often_as_the_limit_says_and_then_falls_silent() -> None:
    nodes = network(3)
    nodes[0].serf.send_event("e", b"", at(1))
    assert carry(nodes) == 3 * 2 * 2  # nodes, transmissions, receivers
    assert not any(node.serf.has_broadcasts() for node in nodes)


def test_events_of_the_same_time_are_different() -> None:
    node = Node(1)
    for event in (
        Happening(5, "a", b""),
        Happening(5, "b", b""),
        Happening(5, "a", b"x"),
        Happening(5, "a", b""),
    ):
        node.hear(encode(event))
    assert [(event.name, event.payload) for event in node.told(UserEvent)] == [
        ("a", b""),
        ("b", b""),
        ("a", b"x"),
    ]
    assert node.serf.figures()["serf_events_repeated"] == 1


def test_hearing_moves_the_clock() -> None:
    node = Node(1)
    node.hear(encode(Happening(41, "a", b"")))
    node.serf.send_event("b", b"", at(1))
    assert [event.ltime for event in node.told(UserEvent)] == [41, 42]


def test_older_than_512_is_not_told() -> None:
    node = Node(1)
    node.hear(encode(Happening(1000, "a", b"")))
    assert rejected(node, encode(Happening(400, "old", b""))) == "stale"
    assert len(node.told(UserEvent)) == 1


@pytest.mark.parametrize(("name", "payload"), [("e", 512), ("e" * 200, 400), ("ü" * 300, 0)])
def test_too_long_is_refused_to_who_sends(name: str, payload: int) -> None:
    node = Node(1)
    with pytest.raises(ValueError, match="512 bytes"):
        node.serf.send_event(name, bytes(payload), at(1))
    node.serf.send_event("e", b"", at(1))
    assert [event.ltime for event in node.told(UserEvent)] == [1]


def test_longer_ones_of_others_are_told_and_forwarded() -> None:
    node = Node(1)
    node.hear(encode(Happening(1, "long", bytes(1200))))
    assert len(node.told(UserEvent)) == 1
    assert node.serf.has_broadcasts()


def test_what_fits_into_no_datagram_is_not_forwarded() -> None:
    node = Node(1)
    node.hear(encode(Happening(1, "long", bytes(2000))))
    assert len(node.told(UserEvent)) == 1
    assert not node.serf.has_broadcasts()
    assert node.serf.figures()["serf_not_forwarded"] == 1


# --- push/pull ---


def test_push_pull_brings_what_was_missed() -> None:
    first, second = Node(1), Node(2)
    second.serf.send_event("own", b"", at(1))
    first.serf.send_event("missed", b"", at(1))
    second.serf.merge_state(first.serf.local_state(at(2), is_join=False), first.address, at(2), is_join=False)
    assert [event.name for event in second.told(UserEvent)] == ["own", "missed"]
    second.serf.merge_state(first.serf.local_state(at(3), is_join=False), first.address, at(3), is_join=False)
    assert second.told(UserEvent) == []


def test_a_fresh_node_is_not_told_what_was_before_it() -> None:
    old, fresh = Node(1), Node(2)
    old.serf.send_event("before", b"", at(1))
    fresh.serf.merge_state(old.serf.local_state(at(2), is_join=True), old.address, at(2), is_join=True)
    old.serf.send_event("after", b"", at(3))
    carry([old, fresh])
    assert [event.name for event in fresh.told(UserEvent)] == ["after"]


def test_who_joins_again_makes_nobody_skip_what_is_on_its_way() -> None:
    first, second = Node(1), Node(2)
    for one, other in ((first, second), (second, first)):
        one.serf.merge_state(other.serf.local_state(at(0), is_join=True), other.address, at(0), is_join=True)
    first.serf.send_event("on its way", b"", at(1))
    second.serf.merge_state(first.serf.local_state(at(1), is_join=True), first.address, at(1), is_join=True)
    carry([first, second])
    assert [event.name for event in second.told(UserEvent)] == ["on its way"]


def test_only_events_of_the_last_two_minutes_are_repeated() -> None:
    node = Node(1)
    node.serf.send_event("old", b"", at(0))
    node.serf.send_event("new", b"", at(100))
    state = decode_push_pull(node.serf.local_state(at(130), is_join=False))
    assert [event.name for event in state.events] == ["new"]


def test_a_stale_event_in_a_push_pull_does_not_spoil_the_rest() -> None:
    first, second = Node(1), Node(2)
    first.serf.send_event("old", b"", at(1))
    second.hear(encode(Happening(1000, "far ahead", b"")))
    second.told(UserEvent)
    second.serf.merge_state(first.serf.local_state(at(2), is_join=False), first.address, at(2), is_join=False)
    assert second.told(UserEvent) == []
    assert second.serf.figures()["serf_parts_rejected"] == 1
