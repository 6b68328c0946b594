"""Delivery through Sieve: what is stored where, what the sender is told, and that nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols.delivery import deliver
from protocols.envelope import Destination, Envelope, Outcome, Refused
from protocols.filtering import MailFilter
from protocols.junk import JunkRule
from protocols.mailboxnames import MailboxNames
from protocols.scriptlibrary import SiteScripts
from protocols.sieve.budget import Limits
from protocols.sieve.interpreter import evaluate
from protocols.sieve.outcome import Outcome as Decision
from storage.errors import CommitUnknown, Unavailable
from storage.model import INBOX, AccountId, SystemFlag
from storage.names import object_id
from storage.scripts import ScriptQuota
from tests.support.mailhost import NOW, MailHost, Watched, mail_host

ANN = "ann@example.test"
ENVELOPE = Envelope(
    reverse_path="from@far.example",
    helo="mx.far.example",
    client_ip="192.0.2.9",
    hostname="mail.example.test",
    protocol="LMTP",
    session_id="s1",
    received_at=NOW,
)
MESSAGE = b"Subject: hi\r\nMessage-ID: <m1@far.example>\r\n\r\nbody\r\n"
NOTE = b"From: Mail Filter <"
REQUIRE = 'require ["fileinto", "mailbox", "imap4flags", "copy", "special-use", "mailboxid", "duplicate"];'


class World:
    """A mail host with Sieve, and Ann's scripts."""

    def __init__(self, host: MailHost) -> None:
        self.host = host
        self.scripts = Watched(host.scripts)
        self.site = SiteScripts()
        self.limits = Limits()
        self.junk: JunkRule | None = None
        self.extensions: frozenset[str] | None = None
        self.build()

    def build(self) -> None:
        self.host.services.filter = MailFilter(
            self.scripts,
            MailboxNames(self.host.mail, clock=lambda: 0.0),
            extensions=self.extensions,
            limits=self.limits,
            site=self.site,
            junk=self.junk,
            clock=lambda: 0.0,
            now=lambda: NOW,
        )

    async def account(self) -> AccountId:
        return (await self.host.account_store.account(ANN)).id

    async def put(self, script: str, name: str = "main", *, active: bool = True) -> None:
        account = await self.account()
        await self.host.scripts.put(account, name, script.encode(), ScriptQuota(script_bytes=10**6))
        if active:
            await self.host.scripts.activate(account, name)

    async def send(
        self, *addresses: str, message: bytes = MESSAGE, envelope: Envelope = ENVELOPE
    ) -> list[Outcome]:
        spool = self.host.intake.spool()
        spool.write(message)
        found = [await self.resolve(address) for address in addresses or (ANN,)]
        destinations = [each for each in found if each is not None]

        async def sleep(_seconds: float) -> None:
            return

        outcomes = await deliver(self.host.services, envelope, spool, destinations, self.resolve, sleep=sleep)
        assert self.host.intake.open_spools == 0
        return outcomes

    async def resolve(self, address: str) -> Destination | None:
        user, _, domain = address.partition("@")
        base, _, detail = user.partition("+")
        recipient = await self.host.account_store.recipient(f"{base}@{domain}")
        return recipient and Destination(address, detail, recipient)

    def stored(self) -> dict[str, list[bytes]]:
        """What lies where, in all accounts, but for notes about failing scripts."""
        everything = self.everything()
        found = {
            name: [each for each in messages if not each.startswith(NOTE)]
            for name, messages in everything.items()
        }
        return {name: messages for name, messages in found.items() if messages}

    def notes(self) -> list[bytes]:
        return [each for messages in self.everything().values() for each in messages if each.startswith(NOTE)]

    def everything(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for box in self.host.tables.mailboxes.values():
            for message in box.messages.values():
                body = b"".join(self.host.tables.contents[message.content_id].frames)
                found.setdefault(box.name, []).append(message.prefix + body)
        return found

    def meanwhile(self, happens: Callable[[], Awaitable[None]], nth: int = 1) -> None:
        """Between the decision and the ``nth`` time that something is written."""
        real, count = self.host.mail.append, itertools.count(1)

        async def append(*arguments: Any) -> Any:
            if next(count) == nth:
                await happens()
            return await real(*arguments)

        self.host.mail.append = append

    def count(self) -> dict[str, int]:
        return {name: len(messages) for name, messages in self.stored().items()}


@pytest.fixture
async def world() -> World:
    return World(await mail_host())


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("keep;", {INBOX: 1}),
        ("discard;", {}),
        (REQUIRE + 'fileinto "Junk";', {"Junk": 1}),
        (REQUIRE + 'fileinto "junk";', {INBOX: 1}),
        (REQUIRE + 'fileinto "Junk"; fileinto "Archive"; keep;', {"Junk": 1, "Archive": 1, INBOX: 1}),
        (REQUIRE + 'fileinto "Absent";', {INBOX: 1}),
        (REQUIRE + 'fileinto "Absent"; fileinto "Junk";', {INBOX: 1, "Junk": 1}),
        (REQUIRE + 'fileinto :create "New/Inner";', {"New/Inner": 1}),
        (REQUIRE + 'fileinto :create "bad//name";', {INBOX: 1}),
        (REQUIRE + 'fileinto :specialuse "\\\\Junk" "Absent";', {"Junk": 1}),
        (REQUIRE + 'fileinto "Junk"; fileinto :specialuse "\\\\junk" "Absent";', {"Junk": 1}),
        (REQUIRE + 'if mailboxexists "Junk" { fileinto "Junk"; }', {"Junk": 1}),
        (REQUIRE + 'if not mailboxexists "Absent" { discard; }', {}),
        (REQUIRE + 'if specialuse_exists "\\\\Sent" { fileinto "Sent"; }', {"Sent": 1}),
        ('redirect "else@far.example";', {INBOX: 1}),
        ('redirect "else@far.example"; discard;', {INBOX: 1}),
        (REQUIRE + 'redirect "else@far.example"; fileinto "Junk";', {"Junk": 1}),
        ('require "vacation"; vacation "away";', {INBOX: 1}),
        ('require "vacation"; vacation "away"; discard;', {}),
        ('require ["fileinto", "variables"]; fileinto "Junk"; redirect "${nobody}";', {INBOX: 1}),
        ("this is no script", {INBOX: 1}),
        ('require "include"; include "absent";', {INBOX: 1}),
        ('require "body"; if body :contains "body" { discard; }', {}),
        ('require "envelope"; if envelope "from" "FROM@far.example" { discard; }', {}),
        ('if header :contains "received" "mx.far.example" { discard; }', {}),
        ('require "environment"; if environment "remote-ip" "192.0.2.9" { discard; }', {}),
        ('require "mboxmetadata"; if metadataexists "INBOX" "/private/x" { discard; }', {INBOX: 1}),
    ],
)
async def test_where_mail_goes(world: World, script: str, expected: dict[str, int]) -> None:
    await world.put(script)
    assert await world.send() == [None]
    assert world.count() == expected
    assert await world.send() == [None]
    assert world.count() == expected


async def test_flags(world: World) -> None:
    await world.put(REQUIRE + 'addflag ["\\\\Seen", "work"]; fileinto :copy "Junk"; setflag "x";')
    await world.send()
    found = {
        box.name: message.flags
        for box in world.host.tables.mailboxes.values()
        for message in box.messages.values()
    }
    assert found["Junk"].system.name == "SEEN"
    assert found["Junk"].keywords == {"work"}
    assert found[INBOX].keywords == {"x"}


async def test_mailbox_is_found_by_its_id_after_a_rename(world: World) -> None:
    account = await world.account()
    made = await world.host.store.create_mailbox(account, "Old")
    await world.put(REQUIRE + f'fileinto :mailboxid "{object_id(made.id)}" "Old";')
    await world.host.store.rename_mailbox(account, "Old", "New")
    await world.send()
    assert world.count() == {"New": 1}


async def test_rejected_mail_is_refused_for_that_recipient_only(world: World) -> None:
    await world.put('require "ereject"; ereject "Not\r\nhere";')
    ann, bob = await world.send(ANN, "bob@example.test")
    assert ann == Refused("Not\r\nhere")
    assert bob is None
    assert world.count() == {INBOX: 1}


async def test_every_recipient_has_a_script_of_its_own(world: World) -> None:
    await world.put(
        'require ["fileinto", "envelope", "subaddress", "variables", "mailbox"];'
        'if envelope :matches :detail "to" "*" { fileinto :create "${1}"; }'
    )
    assert await world.send(ANN, "ann+lists@example.test", "bob@example.test") == [None] * 3
    assert world.count() == {"lists": 1, INBOX: 2}
    assert len(world.host.mail.calls) == world.host.mail.calls.count("append") + 4


async def test_one_write_for_all_copies(world: World) -> None:
    await world.put(REQUIRE + 'fileinto "Junk"; fileinto "Sent"; keep;')
    await world.send(ANN, "bob@example.test")
    assert world.host.mail.calls == ["list_mailboxes", "append"]
    published = {change.mailbox_id for change in world.host.feed.published}
    assert len(published) == 4


async def test_without_filing_there_is_no_read(world: World) -> None:
    await world.put('if header :is "subject" "other" { discard; }')
    await world.send()
    assert world.host.mail.calls == ["append"]
    assert world.scripts.calls == []


FIVE_RULES = "".join(f'if header :is "x-tag" "{n}" {{ fileinto "Archive"; }}\n' for n in range(5))


async def test_a_script_of_rules_that_do_not_hold_is_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def counted(*arguments: Any, **options: Any) -> Decision:
        runs.append(arguments)
        return evaluate(*arguments, **options)

    monkeypatch.setattr("protocols.scriptruns.evaluate", counted)
    await world.put(REQUIRE + FIVE_RULES)
    world.host.mail.calls.clear()
    world.scripts.calls.clear()
    assert await world.send() == [None]
    assert (runs, world.scripts.calls, world.host.mail.calls) == ([], [], ["append"])
    assert await world.send(message=b"X-Tag: 4\r\n" + MESSAGE) == [None]
    assert len(runs) == 1
    assert {name: len(found) for name, found in world.stored().items()} == {INBOX: 1, "Archive": 1}


async def test_a_script_that_edits_and_is_asked_again_begins_with_the_message_as_it_came(
    world: World,
) -> None:
    await world.put(
        'require ["editheader", "mailbox", "fileinto"]; if exists "subject" { addheader "X-Mark" "1"; }'
        'if mailboxexists "Archive" { fileinto "Archive"; }'
    )
    assert await world.send() == [None]
    (message,) = world.stored()["Archive"]
    assert message.count(b"X-Mark") == 1


async def test_edited_message_is_stored_as_edited(world: World) -> None:
    await world.put(
        'require ["editheader", "fileinto"]; fileinto "Junk";'
        'addheader :last "X-Seen" "yes"; deleteheader "subject"; keep;'
    )
    assert await world.send() == [None]
    ((plain,), (edited,)) = world.stored()["Junk"], world.stored()[INBOX]
    assert plain.endswith(MESSAGE)
    assert edited.startswith(b"Return-Path: <from@far.example>\r\n")
    assert edited.endswith(b"Message-ID: <m1@far.example>\r\nX-Seen: yes\r\n\r\nbody\r\n")
    assert await world.send() == [None]
    assert world.count() == {"Junk": 1, INBOX: 1}


async def test_duplicates_are_known_after_delivery_only(world: World) -> None:
    await world.put(REQUIRE + 'if duplicate { fileinto "Junk"; }')
    world.host.mail.faults["append"] = [Unavailable("db")]
    (failed,) = await world.send()
    assert isinstance(failed, Unavailable)
    assert await world.send() == [None]
    assert await world.send(message=MESSAGE + b"again") == [None]
    assert world.count() == {INBOX: 1, "Junk": 1}


async def test_includes_are_read_once_a_level(world: World) -> None:
    await world.put('require "include"; include "a"; include "b"; include :global "site";')
    await world.put('require "include"; include "c";', "a", active=False)
    await world.put("keep;", "b", active=False)
    await world.put(REQUIRE + 'fileinto "Junk";', "c", active=False)
    world.site = SiteScripts(shared={"site": (REQUIRE + 'fileinto "Sent";').encode()})
    world.build()
    assert await world.send() == [None]
    assert world.count() == {INBOX: 1, "Junk": 1, "Sent": 1}
    assert world.scripts.calls == ["contents", "contents"]


async def test_script_that_cannot_be_read_is_a_temporary_failure(world: World) -> None:
    await world.put('require "include"; include :optional "a"; discard;')
    world.scripts.faults["contents"] = [Unavailable("db")]
    ann, bob = await world.send(ANN, "bob@example.test")
    assert isinstance(ann, Unavailable)
    assert bob is None
    assert world.count() == {INBOX: 1}


async def test_what_duplicate_asks_must_be_known(world: World) -> None:
    await world.put('require "duplicate"; if duplicate { discard; }')
    world.scripts.faults["seen"] = [Unavailable("db")]
    (outcome,) = await world.send()
    assert isinstance(outcome, Unavailable)
    assert world.count() == {}


async def test_scripts_of_the_site(world: World) -> None:
    before = (
        'require ["fileinto", "spamtestplus", "relational", "comparator-i;ascii-numeric"];'
        'if spamtest :percent :value "ge" :comparator "i;ascii-numeric" "50" { fileinto "Junk"; stop; }'
    )
    world.site = SiteScripts(before=before.encode(), after=(REQUIRE + 'fileinto "Archive";').encode())
    world.build()
    await world.put('if header "subject" "stop" { discard; }')
    spam = b"X-Spam-Status: Yes, score=7.5 required=5.0\r\n" + MESSAGE
    assert await world.send(message=spam) == [None]
    assert world.count() == {"Junk": 1}
    assert await world.send() == [None]
    assert world.count() == {"Junk": 1, "Archive": 1}


@pytest.mark.parametrize("broken", ["this is no script", 'require "include"; include "absent";'])
async def test_the_site_decides_before_a_script_that_does_not_work(world: World, broken: str) -> None:
    before = 'require ["fileinto", "copy"]; if header "x-virus" "yes" { discard; } fileinto :copy "Archive";'
    world.site = SiteScripts(before=before.encode())
    world.build()
    await world.put(broken)
    assert await world.send(message=b"X-Virus: yes\r\n" + MESSAGE) == [None]
    assert world.count() == {"Archive": 1}
    assert world.notes() == []  # it was not asked
    assert await world.send() == [None]
    assert world.count() == {"Archive": 2, INBOX: 1}
    assert len(world.notes()) == 1


async def test_extensions_are_for_users_to_be_without(world: World) -> None:
    """Scripts of the site use all of them, also those that users include."""
    edits = b'require "editheader"; addheader "X-%b" "yes";'
    world.extensions = frozenset({"include"})
    world.site = SiteScripts(
        before=edits % b"Before", after=edits % b"After", shared={"s": edits % b"Shared"}
    )
    world.build()
    await world.put('require "include"; include :global "s";')
    assert await world.send() == [None]
    (stored,) = world.stored()[INBOX]
    for name in (b"Before", b"Shared", b"After"):
        assert b"X-%b: yes\r\n" % name in stored
    await world.put('require "editheader"; addheader "X-Mine" "yes";')
    assert await world.send(message=b"X: y\r\n" + MESSAGE) == [None]
    assert not any(b"X-Mine" in each for each in world.stored()[INBOX])
    assert len(world.notes()) == 1


async def test_mailbox_that_vanished_is_replaced(world: World) -> None:
    await world.put(REQUIRE + 'fileinto "Old"; fileinto "Junk";')
    account = await world.account()
    await world.host.store.create_mailbox(account, "Old")
    await world.send()
    assert world.count() == {"Old": 1, "Junk": 1}
    await world.host.store.delete_mailbox(account, "Old")
    assert await world.send(message=MESSAGE + b"two") == [None]
    assert (await world.host.inbox())[-1].content == MESSAGE + b"two"
    assert world.count()["Junk"] == 2


ONE_PLACE = {
    "keep": "keep;",
    "inbox": 'fileinto :flags "\\\\Flagged" "INBOX";',
    "two": 'fileinto :flags "\\\\Flagged" "Older";',
}


@pytest.mark.parametrize("is_meanwhile", [False, True], ids=["before", "between decision and write"])
@pytest.mark.parametrize("reversed_order", [False, True])
@pytest.mark.parametrize("other", ONE_PLACE)
async def test_a_message_is_in_the_inbox_once_when_a_mailbox_vanishes(
    world: World, other: str, reversed_order: bool, is_meanwhile: bool
) -> None:
    """Also when it is kept there anyway, with the flags of both."""
    commands = ['fileinto :flags "$Filed" "Old";', ONE_PLACE[other]]
    if reversed_order:
        commands.reverse()
    await world.put(f'{REQUIRE} {" ".join(commands)} fileinto "Junk";')
    account = await world.account()
    for name in ("Old", "Older"):
        await world.host.store.create_mailbox(account, name)

    async def vanish() -> None:
        for name in ("Old", "Older"):
            await world.host.store.delete_mailbox(account, name)

    if is_meanwhile:
        world.meanwhile(vanish)
    else:
        await vanish()
    for _ in range(2):  # the reply is lost, the sender tries again
        assert await world.send() == [None]
    assert world.count() == {INBOX: 1, "Junk": 1}
    (stored,) = world.host.tables.mailboxes[await world.host.inbox_id()].messages.values()
    assert stored.flags.keywords == {"$Filed"}
    assert bool(stored.flags.system & SystemFlag.FLAGGED) is (other != "keep")


@pytest.mark.parametrize(
    ("commands", "nth"),
    [
        ('fileinto "Old"; addheader "X-A" "b"; keep; fileinto "Junk";', 1),
        ('keep; addheader "X-A" "b"; fileinto "Old"; fileinto "Junk";', 2),
    ],
)
async def test_also_when_one_of_the_copies_is_a_changed_one(world: World, commands: str, nth: int) -> None:
    """``nth``: the append before which the mailbox vanishes."""
    await world.put(f'require ["fileinto", "editheader"]; {commands}')
    account = await world.account()
    await world.host.store.create_mailbox(account, "Old")

    async def vanish() -> None:
        await world.host.store.delete_mailbox(account, "Old")

    world.meanwhile(vanish, nth)
    for _ in range(2):
        assert await world.send() == [None]
        assert world.count() == {INBOX: 1, "Junk": 1}


async def test_a_mailbox_made_meanwhile_is_found(world: World) -> None:
    await world.put(REQUIRE + 'fileinto "New";')
    await world.send()
    await world.host.store.create_mailbox(await world.account(), "New")
    await world.send(message=MESSAGE + b"two")
    assert world.count() == {INBOX: 1, "New": 1}


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("nth", range(1, 7))
async def test_any_failing_call_loses_and_doubles_nothing(world: World, nth: int, is_after: bool) -> None:
    """The MTA tries again until it is told 250."""
    await world.put(
        'require ["fileinto", "mailbox", "duplicate", "editheader"]; fileinto :create "New"; fileinto "Junk";'
        'if duplicate { discard; stop; } addheader "X-A" "b"; keep;'
    )
    plan = world.host.fail(nth, is_after=is_after)
    world.scripts.plan = plan
    for _ in range(3):
        if await world.send() == [None]:
            break
    else:
        pytest.fail("never delivered")
    assert world.count() == {"New": 1, "Junk": 1, INBOX: 1}


async def test_unknown_commit_of_a_filed_message_is_read_back(world: World) -> None:
    await world.put(REQUIRE + 'fileinto "Junk";')
    world.host.mail.after["append"] = [CommitUnknown("lost")]
    assert await world.send() == [None]
    assert world.count() == {"Junk": 1}


async def test_script_that_takes_too_long_is_given_up(world: World) -> None:
    world.limits = Limits(steps=20_000)
    world.build()
    await world.put('require "regex"; ' + 'if header :regex "subject" "[0-9a-f].{90}z" { discard; } ' * 50)
    noise = b"Subject: " + bytes(33 + n * n % 89 for n in range(3000)) + b"\r\n\r\n"
    assert await world.send(message=noise) == [None]
    assert world.count() == {INBOX: 1}


async def test_null_sender_and_no_empty_line(world: World) -> None:
    await world.put('require ["envelope", "editheader"]; if envelope "from" "" { addheader "X-A" "b"; }')
    envelope = replace(ENVELOPE, reverse_path="")
    assert await world.send(message=b"Subject: only a header\r\n", envelope=envelope) == [None]
    ((stored,),) = world.stored().values()
    assert stored.endswith(b"Subject: only a header\r\n\r\n")
    assert stored.startswith(b"X-A: b\r\n")
