"""The two ledgers: what is refused, and that nothing is left of sessions that are gone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.memory import NodeMemory, OverMemory, SessionMemory


def test_session_has_its_limit_and_the_node_its_own() -> None:
    node = NodeMemory(100)
    one, other, third = SessionMemory(node, 80), SessionMemory(node, 80), SessionMemory(node)
    one.charge(80)
    with pytest.raises(OverMemory):
        one.charge(1)
    other.charge(20)
    with pytest.raises(OverMemory):
        third.charge(1)
    assert (node.used_bytes, node.peak_bytes, node.refused) == (100, 100, 2)
    one.close()
    one.close()
    third.charge(80)
    assert (node.used_bytes, node.peak_bytes) == (100, 100)


def test_block_gives_back_what_it_turned_out_to_hold() -> None:
    node = NodeMemory(100)
    memory = SessionMemory(node, 100)
    with pytest.raises(ZeroDivisionError), memory.hold(10) as held:
        held.becomes(300)
        assert memory.used_bytes == node.used_bytes == 300
        with pytest.raises(OverMemory):
            SessionMemory(node).charge(1)
        raise ZeroDivisionError
    assert memory.used_bytes == node.used_bytes == 0


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(["charge", "note", "refund", "close"]), st.integers(0, 50)
        ),
        max_size=50,
    )
)
def test_the_node_holds_what_its_sessions_hold(happened: list[tuple[int, str, int]]) -> None:
    node = NodeMemory(100)
    sessions = [SessionMemory(node, 60) for _ in range(4)]
    for number, what, size in happened:
        session = sessions[number]
        try:
            session.close() if what == "close" else getattr(session, what)(size)
        except OverMemory:
            assert session.used_bytes + size > 60 or node.used_bytes + size > 100
        assert node.used_bytes == sum(each.used_bytes for each in sessions)
        assert all(each.used_bytes >= 0 for each in sessions)
    for session in sessions:
        session.close()
    assert node.used_bytes == 0
