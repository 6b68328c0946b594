"""Merging the snapshots of processes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.metrics.catalogue import FAMILIES
from node.metrics.counting import Distribution
from node.metrics.exposition import render
from node.metrics.family import Across, Family, Kind, Snapshot, merge
from node.metrics.registry import Registry

COUNTER = Family("c_total", Kind.COUNTER, "doc", ("who",))
GAUGE = Family("g", Kind.GAUGE, "doc", ("who",))
LEAST = Family("least", Kind.GAUGE, "doc", across=Across.MIN)
MOST = Family("most", Kind.GAUGE, "doc", across=Across.MAX)
EACH = Family("each", Kind.GAUGE, "doc", ("who",), across=Across.EACH)
HISTOGRAM = Family("h_seconds", Kind.HISTOGRAM, "doc", ("who",), bounds=(1.0, 2.0))
ALL = (COUNTER, GAUGE, LEAST, MOST, EACH, HISTOGRAM)

numbers = st.integers(0, 10**9).map(float)  # sums of them are exact


def samples(family: Family) -> st.SearchStrategy[dict[tuple[str, ...], tuple[float, ...]]]:
    labels = st.tuples(*(st.sampled_from(["a", "b", "c"]) for _ in family.labels))
    return st.dictionaries(labels, st.tuples(*(numbers for _ in range(family.width))), max_size=3)


snapshots: st.SearchStrategy[Snapshot] = st.fixed_dictionaries(
    {}, optional={family.name: samples(family) for family in ALL}
)
processes = st.dictionaries(st.sampled_from(["w1", "w2", "w3", "control"]), snapshots, max_size=4)


@given(processes)
def test_order_of_processes_does_not_matter(given_: dict[str, Snapshot]) -> None:
    backwards = dict(reversed(list(given_.items())))
    assert merge(ALL, given_) == merge(ALL, backwards)


@given(processes)
def test_nothing_counted_is_lost_or_made_up(given_: dict[str, Snapshot]) -> None:
    merged = merge(ALL, given_)
    for family in (COUNTER, GAUGE, HISTOGRAM):
        before = [value for each in given_.values() for value in each.get(family.name, {}).values()]
        after = merged.get(family.name, {}).values()
        assert sum(map(sum, before)) == sum(map(sum, after))


@given(processes)
def test_extremes_and_single_series(given_: dict[str, Snapshot]) -> None:
    merged = merge(ALL, given_)
    for family, pick in ((LEAST, min), (MOST, max)):
        before = [each[family.name][()] for each in given_.values() if each.get(family.name)]
        assert merged.get(family.name, {}).get(()) == (pick(before) if before else None)
    each_ = {
        (*labels, process): value
        for process, snapshot in given_.items()
        for labels, value in snapshot.get("each", {}).items()
    }
    assert merged.get("each", {}) == each_


@given(snapshots)
def test_one_process_merges_to_itself(snapshot: Snapshot) -> None:
    merged = merge(ALL, {"main": snapshot})
    for family in ALL:
        if family.across is not Across.EACH:
            assert merged.get(family.name, {}) == snapshot.get(family.name, {})


def test_snapshot_is_plain_data() -> None:
    registry = Registry((HISTOGRAM,))
    distribution = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        distribution.add(value)
    registry.add(lambda: [("h_seconds", ("x",), distribution)])
    snapshot = registry.snapshot()
    assert snapshot == {"h_seconds": {("x",): (2.0, 1.0, 1.0, 12.0)}}
    distribution.add(1.0)
    assert snapshot == {"h_seconds": {("x",): (2.0, 1.0, 1.0, 12.0)}}, "a snapshot does not move"
    json.dumps([[name, list(map(list, each.items()))] for name, each in snapshot.items()])


def test_readings_outside_the_catalogue_are_refused() -> None:
    for reading in (("nobody", (), 1.0), ("g", (), 1.0), ("h_seconds", ("x",), 1.0)):
        registry = Registry(ALL)
        registry.add(lambda reading=reading: [reading])  # type: ignore[misc]
        with pytest.raises((KeyError, ValueError)):
            registry.snapshot()


def test_page_has_cumulated_buckets_and_escaped_labels() -> None:
    snapshot: Snapshot = {
        "h_seconds": {("x",): (2.0, 1.0, 1.0, 12.0)},
        "c_total": {('quote" back\\slash\nline',): (3.0,)},
    }
    page = render(ALL, snapshot)[0].decode()
    assert 'h_seconds_bucket{le="2.0",who="x"} 3.0' in page
    assert 'h_seconds_bucket{le="+Inf",who="x"} 4.0' in page
    assert 'h_seconds_count{who="x"} 4.0' in page
    assert 'h_seconds_sum{who="x"} 12.0' in page
    assert 'c_total{who="quote\\" back\\\\slash\\nline"} 3.0' in page
    page, content_type = render(ALL, snapshot, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


def test_names_follow_the_rules_of_prometheus() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("sora_")
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER), family.name
        assert family.doc.endswith(".")
        assert (family.kind is Kind.HISTOGRAM) == bool(family.bounds)
        assert list(family.bounds) == sorted(family.bounds)
        if family.kind is not Kind.GAUGE:
            assert family.across in (Across.SUM, Across.EACH), "only sums of counters rise"
        assert not {"user", "ip", "address", "mailbox", "domain"} & set(family.labels), "unbounded"
