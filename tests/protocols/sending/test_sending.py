"""What remains of an outcome when its sending was carried out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from protocols.sending.means import Means
from protocols.sending.occasion import Occasion, Sent
from protocols.sending.sending import Sender, Sending
from protocols.sieve.outcome import Discard, FileInto, Keep, Outcome, Redirect, Rule, Vacation
from storage.errors import Unavailable
from storage.model import AccountId

RULE = Rule("main", 1)
AWAY = Redirect(RULE, "ann@away.test")
OCCASION = Occasion(
    account_id=AccountId(7),
    primary_address="ann@example.test",
    own_addresses=frozenset({"ann@example.test", "annie@example.test"}),
    sender="bob@away.test",
    recipient="ann+lists@example.test",
    trace=b"",
    header=b"\r\n",
    structure=b"",
    data=b"\r\n",
    size_bytes=2,
    delivery_key=b"k" * 32,
    received_at=datetime(2026, 11, 22, tzinfo=UTC),
    hostname="mail.test",
)
NO_MEANS = cast("Means", None)


def answering(sent: Sent) -> Sender:
    async def answer(_means: Means, _occasion: Occasion, _actions: Sequence[Any]) -> Sent:
        return sent

    return answer


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([AWAY], [Keep(None)]),
        ([AWAY, Discard(RULE)], [Keep(None)]),
        ([AWAY, Keep(RULE)], [Keep(RULE)]),
        ([AWAY, FileInto(RULE, "Lists")], [FileInto(RULE, "Lists")]),
    ],
)
async def test_what_is_not_sent_is_kept_once(actions: list[Any], expected: list[Any]) -> None:
    sending = Sending(NO_MEANS, {Redirect: answering(Sent(keeps=True, notes=("over",)))})
    carried = await sending.carry_out(OCCASION, Outcome(tuple(actions), notes=("before",)))
    assert list(carried.outcome.actions) == expected
    assert carried.outcome.notes == ("before", "over")


async def test_what_is_sent_is_not_kept() -> None:
    copy = FileInto(RULE, "Sent")
    senders = {Redirect: answering(Sent()), Vacation: answering(Sent(copies=(copy,)))}
    sending = Sending(NO_MEANS, senders)
    outcome = Outcome((AWAY, Vacation(RULE, "away", 60)))
    assert sending.concerns(outcome)
    carried = await sending.carry_out(OCCASION, outcome)
    assert carried.outcome.actions == ()
    assert carried.copies == (copy,)
    assert not sending.concerns(carried.outcome)


async def test_all_actions_of_a_kind_come_at_once_and_trouble_is_for_the_caller() -> None:
    seen: list[Sequence[Any]] = []

    async def later(_means: Means, _occasion: Occasion, actions: Sequence[Any]) -> Sent:
        seen.append(actions)
        raise Unavailable("later")

    other = Redirect(RULE, "ann@else.test")
    with pytest.raises(Unavailable):
        await Sending(NO_MEANS, {Redirect: later}).carry_out(OCCASION, Outcome((AWAY, other)))
    assert seen == [[AWAY, other]]


def test_own_addresses_and_keys() -> None:
    for own in ("ANN@example.test", "annie+x@Example.Test", "ann@example.test"):
        assert OCCASION.is_own(own)
    for foreign in ("ann@away.test", "", "ann", "a b@example.test"):
        assert not OCCASION.is_own(foreign)
    other = dataclasses.replace(OCCASION, delivery_key=b"l" * 32)
    keys = {each.key(*what) for each in (OCCASION, other) for what in ((), ("a", "b"), ("ab",), ("ab", ""))}
    assert len(keys) == 8
    assert OCCASION.key("a", "b") == dataclasses.replace(OCCASION).key("a", "b")
