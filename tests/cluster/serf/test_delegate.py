from __future__ import annotations

import pytest

from cluster.effects import Change, MemberChanged
from cluster.errors import PacketRejected, Reason
from cluster.serf import decode_tags
from cluster.serf.coordinates import ORIGIN, Coordinate, decode_coordinate, encode_coordinate

from .nodes import FakeState, Node, address_of, at


def agent(number: int) -> Node:
    """A member without the tag of Sora."""
    node = Node(number)
    node.serf._tags = {"role": "agent"}
    node.serf._meta = b"\xff\x81\xa4role\xa5agent"
    return node


def sora_and_agent() -> tuple[Node, FakeState]:
    state = FakeState()
    node = Node(1, state=state)
    node.meet(Node(2))
    node.meet(agent(3))
    return node, state


def test_tags_are_those_given_and_our_own() -> None:
    node = Node(1, tags={"dc": "a", "sora": "0.1.0"})
    assert decode_tags(node.serf.meta()) == {"dc": "a", "sora": "0.1.0", "epoch": "0"}
    node.serf.set_tags({"dc": "b"}, at(0))
    assert node.serf.tags == {"dc": "b", "sora": "0.1.0", "epoch": "0"}
    assert node.members.meta_changes == 1
    node.serf.set_tags({"dc": "b"}, at(0))
    assert node.members.meta_changes == 1


def test_too_long_tags_change_nothing() -> None:
    node = Node(1, tags={"dc": "a"})
    with pytest.raises(ValueError, match="512"):
        node.serf.set_tags({"dc": "x" * 600}, at(0))
    assert node.serf.tags["dc"] == "a"
    assert node.members.meta_changes == 0


def test_shared_state_hears_of_members_after_the_outside() -> None:
    node, state = sora_and_agent()
    state.changes.clear()
    node.emitted.clear()
    node.lose(Node(2), 1)
    assert [effect.change for effect in node.told(MemberChanged)] == [Change.FAILED]
    assert state.changes == [(Change.FAILED, "n2")]


@pytest.mark.parametrize("change", [Change.UPDATED, Change.SUSPECTED, Change.CLEARED])
def test_other_changes_pass_through(change: Change) -> None:
    node, _ = sora_and_agent()
    node.emitted.clear()
    node.serf.changed(change, Node(2).view(), at(1))
    assert [effect.change for effect in node.told(MemberChanged)] == [change]


def test_private_messages_go_to_members_of_sora_only() -> None:
    node, state = sora_and_agent()
    state.pending = [b"\x53private"]
    assert node.serf.has_broadcasts()
    assert node.serf.broadcasts(1000, 3, "n3") == []
    assert node.serf.broadcasts(1000, 3, "") == []
    assert node.serf.broadcasts(1000, 3, "n2") == [b"\x53private"]
    assert not node.serf.has_broadcasts()


def test_among_agents_there_is_no_gossip_for_shared_state() -> None:
    state = FakeState(pending=[b"\x53x"])
    node = Node(1, state=state)
    node.serf._sora_names.clear()
    node.meet(agent(3))
    assert not node.serf.has_broadcasts()


def test_private_messages_are_passed_on_whole() -> None:
    node, state = sora_and_agent()
    node.hear(b"\x53abc")
    assert state.received == [b"\x53abc"]


def test_without_shared_state_private_messages_are_of_unknown_type() -> None:
    node = Node(1)
    with pytest.raises(PacketRejected) as caught:
        node.hear(b"\x53abc")
    assert caught.value.reason is Reason.UNKNOWN_TYPE


def test_what_is_taken_stays_within_the_room() -> None:
    node = Node(1)
    for number in range(20):
        node.serf.send_event("e", bytes(100 + number), at(0))
    taken = node.serf.broadcasts(500, 3, "")
    assert len(taken) == 3
    assert sum(len(raw) + 3 for raw in taken) <= 500


# --- acks ---


def test_agents_get_a_coordinate_and_our_own_a_digest() -> None:
    node, _ = sora_and_agent()
    assert node.serf.ack_payload("n2", at(0)) == b"\x538 bytes!"
    for other in ("n3", "", "unknown"):
        assert decode_coordinate(node.serf.ack_payload(other, at(0))) == ORIGIN


def test_a_coordinate_that_moved_is_sent_anew() -> None:
    node, _ = sora_and_agent()
    before = node.serf.ack_payload("n3", at(0))
    node.serf.ping_done("n3", 0.05, encode_coordinate(ORIGIN), at(1))
    after = node.serf.ack_payload("n3", at(1))
    assert before != after
    assert decode_coordinate(after) == node.serf.coordinate("n1")


def test_both_kinds_of_ack_are_understood() -> None:
    node, state = sora_and_agent()
    node.serf.ping_done("n2", 0.001, b"\x5312345678", at(1))
    assert state.digests == [("n2", b"12345678")]
    there = Coordinate((0.1,) * 8, 0.5, 0.0, 0.001)
    node.serf.ping_done("n3", 0.001, encode_coordinate(there), at(1))
    assert node.serf.coordinate("n3") == there
    node.serf.ping_done("n3", 0.001, b"", at(1))


@pytest.mark.parametrize(
    "payload", [b"\x53", b"\x531234567", b"\x53123456789", b"\x02", b"\x01", b"\x01\xc0"]
)
def test_nonsense_in_an_ack_is_rejected(payload: bytes) -> None:
    node, _ = sora_and_agent()
    with pytest.raises(PacketRejected):
        node.serf.ping_done("n2", 0.001, payload, at(1))


def test_a_member_of_sora_is_as_far_as_its_round_trip() -> None:
    node, _ = sora_and_agent()
    assert node.serf.coordinate("n2") is None
    view = node.members.rows["n2"]
    node.members.rows["n2"] = type(view)(*view_fields(view), round_trip_s=0.020)
    own, other = node.serf.coordinate("n1"), node.serf.coordinate("n2")
    assert own is not None
    assert other is not None
    assert own.distance_s(other) == pytest.approx(0.020)
    assert node.serf.coordinate("nobody") is None


def view_fields(view: object) -> list[object]:
    names = ("name", "address", "state", "incarnation", "tags", "vsn", "since", "joined", "is_leaving")
    return [getattr(view, name) for name in names]


# --- push/pull ---


def test_shared_state_rides_on_push_pull() -> None:
    first, state = Node(1, state=FakeState(part=b"from 1")), FakeState()
    second = Node(2, state=state)
    second.serf.merge_state(first.serf.local_state(at(0), is_join=True), first.address, at(0), is_join=True)
    assert state.merged == [b"from 1"]


def test_an_unreadable_state_merges_nothing() -> None:
    node = Node(1)
    with pytest.raises(PacketRejected):
        node.serf.merge_state(b"\x02\x81\xa5LTime\xa1x", address_of(2), at(0), is_join=True)
    with pytest.raises(PacketRejected):
        node.serf.merge_state(b"", address_of(2), at(0), is_join=True)


def test_a_part_of_the_shared_state_that_is_refused_does_not_spoil_the_rest() -> None:
    class Refusing(FakeState):
        def merge_part(self, raw: bytes, at: object) -> None:
            raise PacketRejected(Reason.VERSION)

    first, second = Node(1, state=FakeState()), Node(2, state=Refusing())
    first.serf.join_intent(at(0))
    second.serf.merge_state(first.serf.local_state(at(0), is_join=True), first.address, at(0), is_join=True)
    assert second.serf.figures()["serf_parts_rejected"] == 1
    assert second.serf.figures()["serf_clock"] == 2


def test_members_are_by_name_and_ours_is_among_them() -> None:
    node, _ = sora_and_agent()
    assert [view.name for view in node.serf.members()] == ["n1", "n2", "n3"]
