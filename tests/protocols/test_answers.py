"""What scripts learn of annotations and lists, and what it costs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from protocols.addresslists import PREFIX, AddressList, read_list
from protocols.annotations import ADMIN, Annotations
from protocols.filtering import MAX_MEMBERS, MailFilter
from protocols.incoming import Incoming
from protocols.mailboxnames import MailboxNames
from protocols.sieve.outcome import Discard, Keep, Outcome, Redirect
from storage.annotations import AnnotationLimits
from storage.errors import Unavailable
from storage.memory.annotations import MemoryAnnotationStore
from storage.mime.message import describe
from storage.model import AccountId, ActiveScript
from tests.support.mailhost import NOW, Watched, mail_host

ANN = "ann@example.test"
MESSAGE = b"From: Friend@Far.example\r\nSubject: hi\r\n\r\nbody\r\n"
REQUIRE = (
    'require ["mboxmetadata", "servermetadata", "extlists", "variables", "relational", "envelope", "copy",'
    ' "comparator-i;ascii-numeric"];'
)


class Lists:
    """A ``ListSource`` that counts."""

    def __init__(self, known: Mapping[str, AddressList]) -> None:
        self.known = known
        self.asked: list[str] = []
        self.is_away = False

    async def find(self, name: str) -> AddressList | None:
        self.asked.append(name)
        if self.is_away:
            raise Unavailable("away")
        return self.known.get(name)


class World:
    """Ann's account, with what her scripts may ask."""

    async def build(self) -> World:
        self.host = await mail_host()
        self.account: AccountId = (await self.host.account_store.account(ANN)).id
        self.store = Watched(MemoryAnnotationStore(self.host.tables))
        self.clock = 0.0
        self.annotations = Annotations(
            self.store,  # type: ignore[arg-type]
            AnnotationLimits(),
            site={ADMIN: b"mailto:root@example.test"},
            clock=lambda: self.clock,
        )
        self.lists = Lists(
            {
                f"{PREFIX}friends": AddressList(frozenset({"friend@far.example"})),
                f"{PREFIX}two": AddressList(frozenset({"b@far.example", "a@far.example"})),
                f"{PREFIX}all": AddressList(frozenset(), frozenset({"far.example"})),
                f"{PREFIX}many": AddressList(frozenset(f"{n}@x.example" for n in range(MAX_MEMBERS + 1))),
            }
        )
        self.filter = MailFilter(
            self.host.scripts,
            MailboxNames(self.host.mail, clock=lambda: 0.0),
            annotations=self.annotations,
            lists=self.lists,
            clock=lambda: 0.0,
            now=lambda: NOW,
        )
        inbox = await self.host.inbox_id()
        await self.annotations.change(self.account, inbox, {"/private/box": b"Blue 7", "/private/n": b"42"})
        await self.annotations.change(self.account, None, {"/private/srv": "grün".encode()})
        self.store.calls.clear()
        self.host.mail.calls.clear()
        return self

    async def run(self, script: str, mail: Incoming | None = None) -> Outcome:
        active = ActiveScript("main", (REQUIRE + script).encode())
        return await self.filter.decide(self.account, active, mail or incoming())

    async def holds(self, test: str) -> bool:
        outcome = await self.run(f"if {test} {{ discard; }}")
        assert not outcome.fault
        return isinstance(outcome.actions[0], Discard)


def incoming() -> Incoming:
    content = describe(MESSAGE)
    return Incoming(
        "friend@far.example", ANN, b"", content.header, len(MESSAGE), content.structure, MESSAGE, {}
    )


@pytest.fixture
async def world() -> World:
    return await World().build()


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ('metadata :is "INBOX" "/private/box" "blue 7"', True),
        ('metadata :contains "inbox" "/PRIVATE/Box" "lue"', True),
        ('metadata :is "Trash" "/private/box" "blue 7"', False),
        ('metadata :is "Absent" "/private/box" ""', False),
        ('metadata :value "gt" :comparator "i;ascii-numeric" "INBOX" "/private/n" "41"', True),
        ('metadataexists "INBOX" ["/private/box", "/private/n"]', True),
        ('metadataexists "INBOX" ["/private/box", "/private/none"]', False),
        ('metadataexists "Absent" "/private/box"', False),
        ('servermetadata :is "/private/srv" "grün"', True),
        ('servermetadata :contains "/shared/admin" "root@"', True),
        ('servermetadata :is "/private/box" "blue 7"', False),
        ('servermetadataexists ["/private/srv", "/shared/admin"]', True),
        ('servermetadataexists "/shared/comment"', False),
        (f'valid_ext_list "{PREFIX}friends"', True),
        (f'valid_ext_list ["{PREFIX}friends", "{PREFIX}none"]', False),
        ('valid_ext_list ":addrbook:default"', False),
        (f'address :list "from" "{PREFIX}friends"', True),
        (f'address :list "from" ["{PREFIX}two", "{PREFIX}all"]', True),
        (f'address :list "from" "{PREFIX}two"', False),
        (f'envelope :list "from" "{PREFIX}friends"', True),
        (f'header :list "from" "{PREFIX}friends"', True),
        (f'header :list "subject" "{PREFIX}friends"', False),
        ('address :list "from" ":addrbook:default"', False),
    ],
)
async def test_tests(world: World, test: str, holds: bool) -> None:
    assert await world.holds(test) is holds


async def test_annotations_are_read_once_in_a_run_and_only_if_asked(world: World) -> None:
    assert not await world.holds('header "subject" "other"')
    assert world.store.calls == []
    asked = ('metadataexists "Trash" "/private/x"', 'metadataexists "INBOX" "/private/y"')
    assert not await world.holds(f'anyof ({", ".join(asked)}, servermetadataexists "/private/z")')
    assert world.store.calls == ["everything"]
    assert world.host.mail.calls == ["list_mailboxes"]


async def test_a_list_is_asked_for_once_in_a_run(world: World) -> None:
    name = f"{PREFIX}two"
    tests = f'address :list ["from", "to"] "{name}", header :list "subject" "{name}"'
    assert not await world.holds(f"anyof ({tests})")
    assert world.lists.asked == [name]


async def test_what_cannot_be_known_now_decides_nothing(world: World) -> None:
    world.store.faults["everything"] = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await world.holds('servermetadataexists "/private/srv"')
    world.lists.is_away = True
    for script in (f'if valid_ext_list "{PREFIX}two" {{ stop; }}', f'redirect :list "{PREFIX}two";'):
        with pytest.raises(Unavailable):
            await world.run(script)


async def test_without_sources_nothing_is_there(world: World) -> None:
    world.filter = MailFilter(world.host.scripts, world.filter.names, clock=lambda: 0.0)
    assert not await world.holds('metadataexists "INBOX" "/private/box"')
    assert not await world.holds('servermetadataexists "/private/srv"')
    assert not await world.holds(f'valid_ext_list "{PREFIX}friends"')
    assert not await world.holds(f'address :list "from" "{PREFIX}friends"')


async def test_redirect_to_a_list_is_one_to_each_member(world: World) -> None:
    outcome = await redirects(world, f'redirect "a@far.example"; redirect :list "{PREFIX}two"; keep;')
    assert outcome == [("a@far.example", ""), ("b@far.example", "")]


async def redirects(world: World, script: str) -> list[tuple[str, str]]:
    """Addresses and names of lists, as they go to who sends."""
    found = await world.filter.decide_event(
        world.account,
        ActiveScript("main", (REQUIRE.replace('"envelope", ', "") + script).encode()),
        replace(incoming(), is_delivery=False),
    )
    assert not found.fault
    assert any(isinstance(each, Keep) for each in found.actions)
    return [(each.address, each.list_name) for each in found.actions if isinstance(each, Redirect)]


async def test_list_that_cannot_be_used_stays_a_list(world: World) -> None:
    for name in ("none", "all", "many"):  # unknown, without members, too many of them
        assert await redirects(world, f'redirect :copy :list "{PREFIX}{name}";') == [("", f"{PREFIX}{name}")]


def test_list_files() -> None:
    text = "# the board\nAnn@Example.org  # chair\n\n@Example.NET\nnonsense\n@\nb\u00f6b@b\u00fccher.example"
    found, bad = read_list(text.splitlines())
    assert found == AddressList(
        frozenset({"ann@example.org", "b\u00f6b@b\u00fccher.example"}), frozenset({"example.net"})
    )
    assert bad == [5, 6]
    assert found.has(" ANN@example.ORG ")
    assert found.has("anyone@example.net")
    assert not found.has("anyone@sub.example.net")
    assert not found.has("example.net")


async def test_body_is_loaded_when_a_script_asks_for_it(world: World) -> None:
    loads = 0

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        return MESSAGE

    mail = replace(incoming(), data=None, load=load)
    await world.run('if header "subject" "hi" { discard; }', mail)
    assert loads == 0
    script = 'if anyof (body :contains "none", body :contains "body") { discard; }'
    outcome = await world.filter.decide(
        world.account, ActiveScript("b", b'require "body";' + script.encode()), mail
    )
    assert isinstance(outcome.actions[0], Discard)
    assert loads == 1
