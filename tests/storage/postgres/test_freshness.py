from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.postgres.freshness import Freshness


def test_a_replica_is_fresh_when_it_replayed_the_epoch_of_the_write() -> None:
    freshness = Freshness()
    freshness.wrote([("account", 1)])
    needed = freshness.needed([("account", 1)])
    assert freshness.fresh_to(10**9) < needed
    freshness.learn(freshness.turn(), 100)
    assert freshness.fresh_to(99) < needed
    assert freshness.fresh_to(100) >= needed
    assert freshness.needed([("account", 2)]) < needed


def test_unknown_writes_concern_everyone() -> None:
    freshness = Freshness()
    freshness.wrote([("account", 1)])
    freshness.turn()
    freshness.wrote_unknown()
    assert freshness.needed([("account", 1)]) == freshness.needed([("account", 2)]) == freshness.epoch


@given(
    st.lists(
        st.one_of(st.integers(1, 6).map(lambda key: ("write", key)), st.just(("probe", 0))), max_size=60
    ),
    st.integers(0, 60),
)
def test_never_stale(steps: list[tuple[str, int]], lag: int) -> None:
    """With memory for two keys only: whoever reads from the replica finds their own last write there."""
    freshness = Freshness(max_keys=2)
    position = 0
    last_write: dict[int, int] = {}
    for kind, key in steps:
        if kind == "write":
            position += 1
            last_write[key] = position
            freshness.wrote([key])
        else:
            freshness.learn(freshness.turn(), position)
    replayed = max(0, position - lag)
    for key in range(1, 7):
        if freshness.fresh_to(replayed) >= freshness.needed([key]):
            assert last_write.get(key, 0) <= replayed
