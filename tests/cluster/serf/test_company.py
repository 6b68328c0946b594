"""Serf inside whole engines: what several nodes make of it together."""

from __future__ import annotations

import pytest

from cluster.effects import (
    Change,
    KeysChanged,
    MemberChanged,
    NameConflict,
    QueryAnswered,
    QueryAsked,
    UserEvent,
)
from cluster.engine import Engine
from cluster.serf.keyqueries import INSTALL, LIST, USE, decode_key_answer, encode_key_request
from tests.cluster.company import KEY, Company, make_engine, states

NEW_KEY = bytes(range(50, 82))


def company(count: int) -> tuple[Company, list[Engine]]:
    engines = [make_engine(f"n{number}", number) for number in range(1, count + 1)]
    together = Company(*engines)
    together.join()
    together.run(2.0)
    return together, engines


def heard(together: Company, name: str, kind: type) -> list:  # type: ignore[type-arg]
    return [effect for effect in together.told[name] if isinstance(effect, kind)]


@pytest.mark.parametrize("count", [2, 9])
def test_every_node_hears_every_event_once(count: int) -> None:
    together, engines = company(count)
    for number, engine in enumerate(engines):
        engine.send_event(f"e{number}", bytes((number,)), together.at)
    together.run(5.0)
    for engine in engines:
        names = sorted(event.name for event in heard(together, engine.settings.name, UserEvent))
        assert names == [f"e{number}" for number in range(count)]


def test_a_query_is_answered_by_those_it_is_for() -> None:
    together, engines = company(4)
    number = engines[0].ask("uptime", b"?", together.at, tags={"zone": "^z[23]$"}, wants_ack=True)
    together.run(0.5)
    for engine in engines:
        for asked in heard(together, engine.settings.name, QueryAsked):
            engine.respond(asked.token, engine.settings.name.encode(), together.at)
    together.run(5.0)
    answers = [(a.node, a.payload) for a in heard(together, "n1", QueryAnswered) if a.query == number]
    assert sorted(answers[:-1], key=repr) == [("n2", None), ("n2", b"n2"), ("n3", None), ("n3", b"n3")]
    assert answers[-1] == ("", None)


def test_who_leaves_has_left_everywhere() -> None:
    together, engines = company(4)
    engines[3].leave(together.at)
    together.run(10.0)
    assert engines[3].has_left
    for engine in engines[:3]:
        assert states(engine)["n4"] == "left"
        of_n4 = [c for c in heard(together, engine.settings.name, MemberChanged) if c.member.name == "n4"]
        changes = [effect.change for effect in of_n4]
        assert changes[-1] is Change.LEFT
        assert Change.FAILED not in changes


def test_who_is_silent_has_failed_until_it_is_made_to_leave() -> None:
    together, engines = company(4)
    del together.engines[engines[3].settings.advertise]
    together.run(30.0)
    assert [states(engine)["n4"] for engine in engines[:3]] == ["dead"] * 3
    assert engines[0].force_leave("n4", together.at)
    together.run(3.0)
    assert [states(engine)["n4"] for engine in engines[:3]] == ["left"] * 3


def test_keys_are_rotated_from_one_node() -> None:
    together, engines = company(4)

    def step(name: str, key: bytes = b"") -> list[bool]:
        number = engines[0].ask(name, encode_key_request(key), together.at)
        together.run(4.0)
        told = [answer for answer in heard(together, "n1", QueryAnswered) if answer.query == number]
        answers = [answer for answer in told if answer.payload is not None]
        return [decode_key_answer(answer.payload).is_done for answer in answers]

    for name in (INSTALL, USE):
        assert step(name, NEW_KEY) == [True] * 4
    assert step(LIST) == [True] * 4
    assert [engine.keys for engine in engines] == [(NEW_KEY, KEY)] * 4
    assert all(heard(together, engine.settings.name, KeysChanged) for engine in engines)
    together.run(20.0)
    assert all(set(states(engine).values()) == {"alive"} for engine in engines)


def test_of_two_nodes_with_one_name_the_newcomer_has_to_go() -> None:
    together, engines = company(4)
    second = make_engine("n1", 99, seed=5)
    together.engines[second.settings.advertise] = second
    together.told["second"] = together.told["n1"]
    second.start(together.at)
    second.join([engines[2].settings.advertise], together.at)
    together.run(40.0)
    lost = [conflict for conflict in heard(together, "n1", NameConflict) if conflict.is_lost]
    assert {conflict.address for conflict in lost} == {second.settings.advertise}
    assert all(heard(together, name, NameConflict) for name in ("n2", "n3", "n4"))


def test_changed_tags_reach_all() -> None:
    together, engines = company(3)
    engines[0].set_tags({"zone": "new"}, together.at)
    together.run(3.0)
    for engine in engines:
        tags = next(member.tags for member in engine.members() if member.name == "n1")
        assert tags["zone"] == "new"
        assert "sora" in tags
