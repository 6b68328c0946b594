"""Any run of failures and kills over many attempts, with the relay at work in between: everything is stored
once and sent once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.model import INBOX
from tests.support.mailhost import FaultPlan
from tests.support.sievehost import ANN, BOB, FROM, MESSAGE, Killed, SieveHost, sieve_host

AWAY, ELSE = "ann@away.test", "ann@else.test"
SCRIPTS = {
    f'require ["fileinto", "copy"]; redirect "{AWAY}"; redirect "{ELSE}"; fileinto "Junk"; keep;': (
        {AWAY: 1, ELSE: 1},
        {"Junk": 1, INBOX: 1},
    ),
    f'redirect "{AWAY}";': ({AWAY: 1}, {}),
    f'require "editheader"; addheader "X-A" "b"; redirect "{AWAY}"; keep;': ({AWAY: 1}, {INBOX: 1}),
    'require "reject"; reject "größer";': ({FROM: 1}, {}),
    f'redirect "{ANN}";': ({}, {INBOX: 1}),
}


@st.composite
def troubles(draw: st.DrawFn) -> list[tuple[int, bool, bool, bool]]:
    """Of each attempt: which call, before or after it, failure or kill, and whether the queue's holds
    end then."""
    trouble = st.tuples(st.integers(1, 11), st.booleans(), st.booleans(), st.booleans())
    return draw(st.lists(trouble, max_size=6))


async def attempts(script: str, plans: list[tuple[int, bool, bool, bool]]) -> SieveHost:
    host = await sieve_host()
    await host.put(script)
    host.outbox.is_fast = True
    for nth, is_after, is_kill, holds_end in plans:
        (host.kill if is_kill else host.fail)(nth, is_after=is_after)
        try:
            await host.send(ANN, BOB)
        except Killed:
            host.host.intake.open_spools = 0
        if holds_end:
            await host.end_holds()
    host.set_plan(FaultPlan())
    assert await host.send(ANN, BOB) == [None, None]
    await host.end_holds()
    return host


@settings(max_examples=60, deadline=None)
@given(plans=troubles())
@pytest.mark.parametrize("script", SCRIPTS)
def test_stored_once_and_sent_once(script: str, plans: list[tuple[int, bool, bool, bool]]) -> None:
    async def run() -> None:
        host = await attempts(script, plans)
        sent, stored = SCRIPTS[script]
        assert Counter(host.sent_to()) == sent
        assert await host.count() == stored
        assert await host.count(BOB) == {INBOX: 1}
        for each in host.outbox.sent:
            assert each.message.endswith(MESSAGE) or "reject" in script or "editheader" in script

    asyncio.run(run())
