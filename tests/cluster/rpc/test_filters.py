from __future__ import annotations

import pytest

from cluster.rpc.filters import EventFilter, matching, parse_event_filters

from .agents import FakeAgent


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", [("*", "")]),
        ("*", [("*", "")]),
        ("user:deploy,query", [("user", "deploy"), ("query", "")]),
        ("user:a:b", [("user", "a:b")]),
        ("member-join,member-reap", [("member-join", ""), ("member-reap", "")]),
    ],
)
def test_event_filters(text: str, filters: list[tuple[str, str]]) -> None:
    assert parse_event_filters(text) == tuple(EventFilter(*each) for each in filters)


@pytest.mark.parametrize("text", ["nope", "member-join:x", "user,", "*,x", " user"])
def test_unknown_kinds_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_event_filters(text)


@pytest.mark.parametrize(
    ("text", "taken"),
    [("*", True), ("user", True), ("user:deploy", True), ("user:other", False), ("query:deploy", False)],
)
def test_filters_take_by_kind_and_name(text: str, taken: bool) -> None:
    (one,) = parse_event_filters(text)
    assert one.takes({"Event": "user", "Name": "deploy"}) is taken


@pytest.mark.parametrize(
    ("tags", "status", "name", "found"),
    [
        ({}, "", "", ["a1", "b2", "b3", "c4", "c5"]),
        ({"role": "b"}, "", "", ["b2", "b3"]),
        ({"role": "b|c"}, "alive", "", ["b2"]),
        ({}, "left|failed", "", ["b3", "c4"]),
        ({}, "leaving", "", ["c5"]),
        ({}, "", "b", []),  # the whole name
        ({}, "", "b.", ["b2", "b3"]),
        ({"absent": ""}, "", "", ["a1", "b2", "b3", "c4", "c5"]),
        ({"absent": "x"}, "", "", []),
    ],
)
def test_members_by_expression(tags: dict[str, str], status: str, name: str, found: list[str]) -> None:
    assert [member.name for member in matching(FakeAgent().held, tags, status, name)] == found


def test_an_expression_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ValueError):
        matching([], {}, "", "(?P<x>a)")
