"""A script that does everything at once, with trouble at every call: nothing is lost, nothing comes twice."""

from __future__ import annotations

from collections import Counter

import pytest

from protocols.ports import MailKind
from storage.model import INBOX
from tests.support.sievehost import FROM, sieve_host

from .letters import message

AWAY, PAGER = "ann@away.test", "pager@phone.test"
SCRIPT = f"""
require ["fileinto", "copy", "vacation", "vacation-seconds", "enotify", "fcc", "editheader"];
fileinto :copy "Archive";
redirect :copy "{AWAY}";
vacation :seconds 60 :fcc "Sent" "Away.";
notify :fcc "Drafts" "mailto:{PAGER}";
addheader "X-Seen" "yes";
keep;
"""
MAIL = message(Message_ID="<1@far.example>", From=FROM)
# Of each: the fewest and the most there may be in the end.
STORED = {INBOX: (1, 1), "Archive": (1, 1), "Sent": (0, 1), "Drafts": (0, 1)}
SENT = {MailKind.REDIRECT: (1, 1), MailKind.VACATION: (0, 1), MailKind.NOTIFY: (0, 1)}


def check(found: Counter[str], allowed: dict[str, tuple[int, int]]) -> None:
    for what, (fewest, most) in allowed.items():
        assert fewest <= found[what] <= most, found
    assert found.keys() <= allowed.keys()


@pytest.mark.parametrize("is_after", [False, True])
async def test_trouble_at_any_call(is_after: bool) -> None:
    complete = Counter[str]()
    for nth in range(1, 80):
        host = await sieve_host()
        await host.put(SCRIPT)
        plan = host.fail(nth, is_after=is_after)
        await host.send_until_taken(MAIL)
        await host.end_holds()
        stored = Counter(await host.count())
        sent = Counter(each.kind.value for each in host.outbox.sent)
        check(stored, STORED)
        check(sent, {kind.value: bounds for kind, bounds in SENT.items()})
        if not plan.has_fired:
            complete = stored + sent
            break
    assert complete == Counter([*STORED, *(kind.value for kind in SENT)])


async def test_all_of_it_again_changes_nothing() -> None:
    host = await sieve_host()
    await host.put(SCRIPT)
    await host.send(message=MAIL)
    stored, sent = await host.count(), list(host.outbox.sent)
    host.outbox.sent = []  # it has left the queue
    assert await host.send(message=MAIL) == [None]
    assert await host.count() == stored
    assert not host.outbox.sent
    assert len(sent) == 3
