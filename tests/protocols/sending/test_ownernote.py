"""A script that fails: the message stays, and its owner is told once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from email import message_from_bytes, policy

import pytest

from protocols.filtering import MailFilter
from protocols.mailboxnames import MailboxNames
from protocols.scriptlibrary import SiteScripts
from storage.errors import CommitUnknown, Unavailable
from storage.model import INBOX
from tests.support.sievehost import ANN, BOB, ENVELOPE, MESSAGE, NOW, SieveHost, sieve_host

BROKEN = 'keep;\nfileinto "Junk";'  # fileinto is not required
FAILING = 'require "variables";\nset "to" "nobody";\nredirect "${to}";'


@pytest.fixture
async def host() -> SieveHost:
    return await sieve_host()


@pytest.mark.parametrize(("script", "line"), [(BROKEN, "line 2"), (FAILING, "nobody")])
async def test_the_message_stays_and_the_owner_is_told(host: SieveHost, script: str, line: str) -> None:
    await host.put(script)
    assert await host.send(ANN, BOB) == [None, None]
    assert await host.count() == {INBOX: 1, "notes": 1}
    assert await host.count(BOB) == {INBOX: 1}
    note = message_from_bytes((await host.stored())["notes"][0], policy=policy.default)
    assert note["to"] == ANN
    assert note["auto-submitted"] == "auto-generated"
    assert "main:" in note.get_content()  # type: ignore[attr-defined]
    assert line in note.get_content()  # type: ignore[attr-defined]
    inbox = await host.host.inbox_id()
    assert [each.mailbox_id for each in host.host.feed.published].count(inbox) == 2


async def test_one_note_a_day_and_version(host: SieveHost) -> None:
    await host.put(BROKEN)
    for number in range(3):
        await host.send(message=MESSAGE + b"%d" % number)
    assert await host.count() == {INBOX: 3, "notes": 1}
    await host.send(message=MESSAGE + b"day", envelope=replace(ENVELOPE, received_at=NOW + timedelta(days=1)))
    assert (await host.count())["notes"] == 2
    await host.put(BROKEN + "\n# other")
    await host.send(message=MESSAGE + b"other")
    assert await host.count() == {INBOX: 5, "notes": 3}
    await host.put("keep;")
    await host.send(message=MESSAGE + b"mended")
    assert (await host.count())["notes"] == 3


async def test_mistakes_of_the_site_are_not_for_the_user(host: SieveHost) -> None:
    host.host.services.filter = MailFilter(
        host.scripts,
        MailboxNames(host.host.mail, clock=lambda: 0.0),
        site=SiteScripts(before=FAILING.encode()),
        clock=lambda: 0.0,
        now=lambda: NOW,
    )
    await host.put("keep;")
    assert await host.send() == [None]
    assert await host.count() == {INBOX: 1}


@pytest.mark.parametrize("fault", [Unavailable("db"), CommitUnknown("lost")])
@pytest.mark.parametrize("call", ["seen", "append", "remember"])
async def test_trouble_with_the_note_is_no_trouble_of_the_message(
    host: SieveHost, call: str, fault: Exception
) -> None:
    await host.put(BROKEN)
    real, told = host.host.mail, host.scripts
    if call == "append":
        first, real.faults["append"] = await host.send(BOB), []
        assert first == [None]
        original = real.real.append

        async def append(staged_content: object, messages: list[object]) -> object:
            if not getattr(messages[0], "prefix"):  # noqa: B009  (of a note)
                raise fault
            return await original(staged_content, messages)

        real.real.append = append
    else:
        told.faults[call] = [fault]
    assert await host.send() == [None]
    assert (await host.count())[INBOX] == 1
    assert host.host.intake.discarded == (1 if call == "append" and isinstance(fault, Unavailable) else 0)
