"""Scripts on what users do to messages (RFC 6785), through sessions against the memory store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from protocols.annotations import SCRIPT
from protocols.filtering import MailFilter
from protocols.imap.eventqueue import SLICE, EventQueue
from protocols.imap.eventscripts import EventScripts
from protocols.imap.presentation import OPTION as PRESENTATION
from protocols.imap.presentation import Presentation
from protocols.imap.session import SIEVE_URL
from protocols.mailboxnames import MailboxNames
from protocols.messageevents import Happened
from protocols.ports import MailKind
from protocols.sending.means import Means, SendingLimits
from protocols.sending.sending import Sending
from storage.errors import Unavailable
from storage.memory.scripts import MemoryScriptStore
from storage.memory.sendlog import MemorySendLog
from storage.model import INBOX, Flags, SystemFlag
from storage.scripts import ScriptQuota
from tests.support.imap import ACCOUNT, NOW, ImapLab
from tests.support.mailhost import FaultPlan, Watched
from tests.support.outbox import FakeOutbox
from tests.support.wire import Wire

REQUIRE = (
    'require ["imapsieve", "environment", "imap4flags", "fileinto", "copy", "mailbox", "variables",'
    ' "editheader", "duplicate", "body"];\n'
)
SUBJECT = b"Subject: x\r\n\r\nhi\r\n"


class CountedBodies:
    def __init__(self, real: Any) -> None:
        self.real = real
        self.opened = 0

    async def open(self, ref: Any, prefix: bytes = b"") -> Any:
        self.opened += 1
        return await self.real.open(ref, prefix)

    def prefetch(self, refs: Sequence[Any]) -> None:
        return None


class Lab(ImapLab):
    """An IMAP server with scripts on events."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.scripts = Watched(MemoryScriptStore(self.mail.tables))
        self.bodies = CountedBodies(self.services.bodies)
        self.services.bodies = cast("Any", self.bodies)
        self.services.filter = MailFilter(
            cast("Any", self.scripts),
            MailboxNames(cast("Any", self.watched), clock=lambda: 0.0),
            clock=lambda: 0.0,
            now=lambda: NOW,
        )
        self.handled: list[Happened] = []
        runner = self.runner = EventScripts(self.services, "mail.example.org", now=lambda: NOW)

        async def run(event: Happened) -> None:
            self.handled.append(event)
            await runner.run(event)

        assert self.services.annotations is not None
        self.queue = EventQueue(self.services.annotations, run)
        self.services.events = self.queue

    async def script(self, text: str, mailbox: str | None = INBOX, name: str = "main") -> None:
        await self.scripts.real.put(ACCOUNT, name, (REQUIRE + text).encode(), ScriptQuota(script_bytes=10**6))
        await self.name_script(name.encode(), mailbox)

    async def name_script(self, value: bytes | None, mailbox: str | None = INBOX) -> None:
        assert self.services.annotations is not None
        place = None if mailbox is None else self.mailbox_id(mailbox)
        await self.services.annotations.change(ACCOUNT, place, {SCRIPT: value})

    def mailbox_id(self, name: str) -> Any:
        return self.mail.mailbox(name).id

    def flags(self, name: str = INBOX) -> dict[int, set[str]]:
        return {uid: named(flags) for uid, flags in self.mail.rows(name).items()}

    async def append(self, wire: Wire, mailbox: str = INBOX, flags: str = "", body: bytes = SUBJECT) -> None:
        said = await wire.send(f"a APPEND {mailbox} ({flags}) {{{len(body)}+}}\r\n".encode() + body + b"\r\n")
        assert b"a OK" in said
        await self.queue.settle()


def named(flags: Flags) -> set[str]:
    return {flag.name or "" for flag in SystemFlag if flag and flag in flags.system} | set(flags.keywords)


# --- which script, and when ---


async def test_without_a_script_there_is_one_cached_read() -> None:
    lab = Lab()
    wire = await lab.log_in(INBOX)
    for _ in range(3):
        await lab.append(wire)
        await wire.send(b"1 STORE 1 +FLAGS (\\Seen)\r\n2 COPY 1 Trash\r\n3 STORE 1 -FLAGS (\\Seen)\r\n")
    assert lab.calls.count("named") == 1
    assert lab.handled == []
    assert lab.scripts.calls == []


@pytest.mark.parametrize(
    ("mailbox", "server", "runs"),
    [
        (None, None, ""),
        (b"one", None, "one"),
        (None, b"two", "two"),
        (b"one", b"two", "one"),
        (b"", b"two", ""),  # what is selected counts, usable or not
        (b"absent", b"two", ""),
        (b"\xff", b"two", ""),
        (b"broken", b"two", ""),
    ],
)
async def test_which_script_runs(mailbox: bytes | None, server: bytes | None, runs: str) -> None:
    lab = Lab()
    for name in ("one", "two"):
        await lab.script(f'addflag "{name}";', "Trash", name)
    await lab.scripts.real.put(ACCOUNT, "broken", b"this is none", ScriptQuota())
    await lab.name_script(mailbox)
    await lab.name_script(server, None)
    await lab.append(await lab.log_in())
    assert lab.flags()[1] == ({runs} if runs else set())
    became = {b"absent": "missing", b"\xff": "missing", b"broken": "failed"}
    result = "ran" if runs else became.get(mailbox or b"")
    assert lab.runner.results == ({result: 1} if result else {})


async def test_script_may_be_named_over_the_wire() -> None:
    lab = Lab()
    await lab.script('addflag "a";', "Trash", "grün")
    wire = await lab.log_in()
    set_it = b"1 SETMETADATA INBOX (/Shared/imapsieve/Script {5+}\r\ngr\xc3\xbcn)\r\n"
    assert b"1 OK" in await wire.send(set_it)
    await lab.append(wire)
    assert b"2 OK" in await wire.send(b"2 SETMETADATA INBOX (/shared/imapsieve/script NIL)\r\n")
    await lab.append(wire)
    assert lab.flags() == {1: {"a"}, 2: set()}


ENVIRONMENT = """
if environment :matches "imap.cause" "*" { set "cause" "${1}"; }
if environment :matches "imap.mailbox" "*" { set "box" "${1}"; }
if environment :matches "imap.user" "*" { set "user" "${1}"; }
if environment :matches "imap.email" "*" { set "email" "${1}"; }
if environment :matches "imap.changedflags" "*" { set "changed" "${1}"; }
if allof (environment "location" "MS", environment "phase" "post") {
  addheader "X-Told" "${cause}|${box}|${user}|${email}|${changed}";
  fileinto :copy "Archive";
}
"""


def told(lab: Lab) -> list[str]:
    found = []
    for message in lab.mail.box("Archive").messages.values():
        body = b"".join(lab.mail.tables.contents[message.content_id].frames)
        found.append(body.split(b"X-Told: ")[1].split(b"\r\n")[0].decode())
    return found


async def test_environment() -> None:
    lab = Lab()
    await lab.script(ENVIRONMENT, None)
    wire = await lab.log_in(INBOX)
    await lab.append(wire, flags="\\Seen")
    who = "ann@example.org|ann@example.org"
    for command, expected in (
        (b"COPY 1 Trash", f"COPY|Trash|{who}|"),
        (b"STORE 1 +FLAGS (\\Flagged work)", f"FLAG|INBOX|{who}|\\Flagged work"),
        (b"STORE 1 FLAGS (\\Answered work)", f"FLAG|INBOX|{who}|\\Seen \\Answered \\Flagged"),
        (b"UID STORE 1 -FLAGS.SILENT (work none)", f"FLAG|INBOX|{who}|work"),
        (b"FETCH 1 BODY[]", f"FLAG|INBOX|{who}|\\Seen"),
        (b"MOVE 1 Trash", f"COPY|Trash|{who}|"),
    ):
        before = len(told(lab))
        assert b"x OK" in await wire.send(b"x %b\r\n" % command)
        await lab.queue.settle()
        assert told(lab)[before:] == [expected], command
    assert told(lab)[0] == f"APPEND|INBOX|{who}|"


@pytest.mark.parametrize(
    "command", [b"STORE 1 +FLAGS (\\Seen)", b"FETCH 1 BODY[]", b"FETCH 1 FLAGS", b"SEARCH ALL", b"NOOP"]
)
async def test_what_changes_nothing_is_no_event(command: bytes) -> None:
    lab = Lab()
    lab.mail.deliver(flags=Flags(SystemFlag.SEEN))
    await lab.script("discard;")
    wire = await lab.log_in(INBOX)
    await wire.send(b"1 %b\r\n" % command)
    await lab.queue.settle()
    assert lab.handled == []
    assert lab.flags() == {1: {"SEEN"}}


# --- what scripts may do ---


@pytest.mark.parametrize(
    ("script", "inbox", "archive"),
    [
        ("", {"work"}, None),
        ("keep;", {"work"}, None),
        ('addflag "\\\\Flagged";', {"work", "FLAGGED"}, None),
        ('setflag "new";', {"new"}, None),
        ('removeflag "WORK";', set(), None),
        ('setflag "WORK";', {"work"}, None),
        ('setflag ["WORK", "\\\\SEEN"];', {"work", "SEEN"}, None),
        ('keep :flags ["\\\\Seen", "work"];', {"work", "SEEN"}, None),
        ('if hasflag "work" { addflag "seen-it"; }', {"work", "seen-it"}, None),
        ("discard;", {"work", "DELETED"}, None),
        ("discard; keep;", {"work"}, None),
        ('addflag "x"; discard;', {"work", "DELETED"}, None),
        ('fileinto "Archive";', {"work", "DELETED"}, {"work"}),
        ('fileinto :copy "Archive";', {"work"}, {"work"}),
        ('fileinto "Archive"; keep;', {"work"}, {"work"}),
        ('fileinto :flags "other" "Archive";', {"work", "DELETED"}, {"other"}),
        ('addflag "x"; fileinto :copy "Archive";', {"work", "x"}, {"work", "x"}),
        ('fileinto "Absent";', {"work"}, None),
        ('fileinto "Archive"; fileinto "Absent";', {"work"}, {"work"}),
        ('redirect "a@far.example";', {"work"}, None),  # nothing is sent from here
        ('redirect "a@far.example"; discard;', {"work"}, None),
        ('require "ereject"; ereject "no"; ', {"work"}, None),
        ('require "vacation"; vacation "away"; discard;', {"work"}, None),
        ('require "envelope"; if envelope "from" "x" { discard; } discard;', {"work"}, None),
        ('require "include"; include "absent"; discard;', {"work"}, None),
        ('fileinto "${nobody}";', {"work"}, None),
    ],
)
async def test_actions(script: str, inbox: set[str], archive: set[str] | None) -> None:
    lab = Lab()
    await lab.script(script)
    await lab.append(await lab.log_in(), flags="work")
    assert lab.flags() == {1: inbox} | notes(lab)
    assert lab.flags("Archive") == ({} if archive is None else {1: archive})


def notes(lab: Lab) -> dict[int, set[str]]:
    """Messages to the owner about a script that fails."""
    return {uid: flags for uid, flags in lab.flags().items() if uid > 1}


async def test_filing_into_the_same_mailbox_makes_another_message() -> None:
    lab = Lab()
    await lab.script('fileinto "INBOX"; keep;')
    await lab.append(await lab.log_in())
    assert lab.flags() == {1: set(), 2: set()}


async def test_a_mailbox_that_is_not_there_is_looked_for_once_in_a_slice() -> None:
    lab = Lab()
    for _ in range(50):
        lab.mail.deliver()
    await lab.script('fileinto "Absent";', "Trash")
    await (await lab.log_in(INBOX)).send(b"1 COPY 1:* Trash\r\n")
    await lab.queue.settle()
    assert set(map(frozenset, lab.flags("Trash").values())) == {frozenset()}
    assert lab.calls.count("list_mailboxes") == 2  # what is known may be old, so a second look


@pytest.mark.parametrize("edit", ["", 'addheader "X-Seen" "yes";'])
async def test_mailbox_that_was_made_anew_elsewhere_is_found(edit: str) -> None:
    lab = Lab()
    await lab.script(f'{edit} fileinto "Archive";')
    wire = await lab.log_in()
    await lab.append(wire)
    await lab.mail.store.delete_mailbox(ACCOUNT, "Archive")
    await lab.append(wire)  # the known one is gone, and there is no other
    await lab.mail.store.create_mailbox(ACCOUNT, "Archive")
    await lab.append(wire)
    assert lab.flags() == {1: {"DELETED"}, 2: set(), 3: {"DELETED"}}
    assert lab.flags("Archive") == {1: set()}


async def test_names_that_a_client_changed_are_known_at_once() -> None:
    lab = Lab()
    await lab.script('fileinto "Archive"; keep;')
    wire = await lab.log_in()
    await lab.append(wire)
    await wire.send(b"1 RENAME Archive Old\r\n2 CREATE Archive\r\n")
    await lab.append(wire)
    assert (len(lab.flags("Old")), len(lab.flags("Archive"))) == (1, 1)


async def test_mailbox_is_made_where_the_script_says_so() -> None:
    lab = Lab()
    await lab.script('fileinto :create "New/Inner";', "Trash")
    await lab.append(await lab.log_in(), "Trash")
    assert lab.flags("New/Inner") == {1: set()}
    assert lab.flags("Trash") == {1: {"DELETED"}}


async def test_edits_are_seen_in_copies_only() -> None:
    lab = Lab()
    await lab.script('addheader "X-Seen" "yes"; deleteheader "subject"; fileinto :copy "Archive";')
    await lab.append(await lab.log_in())
    bodies = [
        b"".join(lab.mail.tables.contents[message.content_id].frames)
        for name in (INBOX, "Archive")
        for message in lab.mail.box(name).messages.values()
    ]
    assert bodies == [SUBJECT, b"X-Seen: yes\r\n\r\nhi\r\n"]


async def test_owner_is_told_of_a_failing_script_once() -> None:
    lab = Lab()
    await lab.script('require "reject"; reject "no";', "Trash")
    wire = await lab.log_in()
    for _ in range(3):
        await lab.append(wire, "Trash")
    assert len(lab.flags("Trash")) == 3
    assert len(lab.flags(INBOX)) == 1


# --- what is sent ---


class Addresses:
    async def addresses(self, _account_id: Any) -> frozenset[str]:
        return frozenset({"ann@example.org"})


def with_relay(lab: Lab) -> FakeOutbox:
    outbox = FakeOutbox()
    log = MemorySendLog(lab.mail.tables)
    lab.services.accounts = cast("Any", Addresses())
    lab.services.sending = Sending(
        Means(
            outbox=outbox,
            handovers=log,
            redirect_log=log,
            answers=log,
            accounts=lab.services.accounts,
            limits=SendingLimits(redirects=3),
            now=lambda: NOW,
        )
    )
    return outbox


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ('redirect "a@far.example";', {"work", "DELETED"}),
        ('redirect :copy "a@far.example";', {"work"}),
        ('redirect "a@far.example"; keep;', {"work"}),
        ('redirect "a@far.example"; fileinto "Archive";', {"work", "DELETED"}),
    ],
)
async def test_redirect_comes_from_the_owner(script: str, flags: set[str]) -> None:
    lab = Lab()
    outbox = with_relay(lab)
    await lab.script(script)
    await lab.append(await lab.log_in(), flags="work")
    (sent,) = outbox.sent
    assert (sent.envelope_from, sent.recipients) == ("ann@example.org", ("a@far.example",))
    assert sent.message.endswith(SUBJECT)
    assert lab.flags() == {1: flags}


async def test_redirect_that_cannot_go_leaves_the_message_as_it_is() -> None:
    lab = Lab()
    outbox = with_relay(lab)
    outbox.failure = Unavailable("away")
    await lab.script('redirect "a@far.example";')
    wire = await lab.log_in()
    await lab.append(wire, flags="work")
    await lab.script('redirect "ann@example.org";')  # to herself
    await lab.append(wire, flags="work")
    assert lab.flags() == {1: {"work"}, 2: {"work"}}
    assert outbox.sent == []


async def test_redirects_of_many_messages_are_limited() -> None:
    lab = Lab()
    outbox = with_relay(lab)
    for _ in range(5):
        lab.mail.deliver()
    await lab.script('redirect "a@far.example";', "Trash")
    await (await lab.log_in(INBOX)).send(b"1 COPY 1:* Trash\r\n")
    await lab.queue.settle()
    assert len(outbox.sent) == 3
    assert sorted(map(len, lab.flags("Trash").values())) == [0, 0, 1, 1, 1]  # \\Deleted where it was sent


async def test_each_event_notifies() -> None:
    lab = Lab()
    outbox = with_relay(lab)
    lab.mail.deliver(body=b"From: b@far.example\r\n" + SUBJECT)
    await lab.script(
        'require "enotify"; if hasflag "\\\\Flagged" { notify :message "look" "mailto:me@far.example"; }'
    )
    wire = await lab.log_in(INBOX)
    for change in (b"+", b"-", b"+"):
        await wire.send(b"1 STORE 1 %bFLAGS (\\Flagged)\r\n" % change)
        await lab.queue.settle()
    assert [sent.kind for sent in outbox.sent] == [MailKind.NOTIFY] * 2


# --- what it costs ---


async def test_bodies_are_read_by_scripts_that_look_at_them_only() -> None:
    lab = Lab()
    await lab.script('if header :contains "subject" "x" { addflag "h"; }')
    wire = await lab.log_in()
    await lab.append(wire)
    assert (lab.bodies.opened, lab.flags()) == (0, {1: {"h"}})
    await lab.script('if body :contains "hi" { addflag "b"; }')
    await lab.append(wire)
    assert (lab.bodies.opened, lab.flags()[2]) == (1, {"b"})


async def test_many_copies_cost_some_writes() -> None:
    lab = Lab()
    for _ in range(SLICE + 50):
        lab.mail.deliver()
    await lab.script(
        'if environment "imap.cause" "COPY" { addflag "seen-it"; fileinto :copy "Archive"; }', "Trash"
    )
    wire = await lab.log_in(INBOX)
    assert b"1 OK" in await wire.send(b"1 COPY 1:* Trash\r\n")
    await lab.queue.settle()
    assert len(lab.flags("Archive")) == SLICE + 50
    assert set(map(frozenset, lab.flags("Trash").values())) == {frozenset({"seen-it"})}
    counts = {name: lab.calls.count(name) for name in ("fetch", "copy", "store_flags")}
    assert lab.calls.count("list_mailboxes") == 1
    # two slices; one of the copies is the client's, and copies get the flags of the script
    assert counts == {"fetch": 2, "copy": 3, "store_flags": 4}


# --- events of scripts ---


@pytest.mark.parametrize("command", [b"STORE 1 +FLAGS (x)", b"COPY 1 INBOX", b"FETCH 1 BODY[]"])
async def test_what_a_script_does_is_no_event(command: bytes) -> None:
    lab = Lab()
    lab.mail.deliver()
    await lab.script('addflag "\\\\Flagged"; fileinto :copy "Archive"; fileinto "INBOX";', None)
    wire = await lab.log_in(INBOX)
    await wire.send(b"1 %b\r\n" % command)
    await lab.queue.settle()
    assert len(lab.handled) == 1
    assert len(lab.flags("Archive")) == 1


async def test_duplicate_remembers_over_events() -> None:
    lab = Lab()
    await lab.script('if duplicate :uniqueid "same" { discard; }')
    wire = await lab.log_in()
    for _ in range(2):
        await lab.append(wire)
    assert lab.flags() == {1: set(), 2: {"DELETED"}}


# --- trouble ---


@pytest.mark.parametrize("call", ["fetch", "copy", "store_flags", "list_mailboxes"])
async def test_trouble_fails_no_command_and_loses_no_message(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab()
    await lab.script('fileinto "Archive";')
    wire = await lab.log_in()
    lab.watched.faults[call] = [Unavailable("away")] * 3
    with caplog.at_level(logging.INFO, "sora.sieve"):
        await lab.append(wire)
    assert "away" in caplog.text
    assert lab.flags() == {1: set()}
    assert lab.runner.results.keys() <= {"unavailable", "ran"}
    lab.watched.faults.clear()
    await lab.append(wire)
    assert lab.flags()[2] == {"DELETED"}


async def test_script_that_cannot_be_read_or_looked_for() -> None:
    lab = Lab()
    await lab.script("discard;")
    wire = await lab.log_in()
    lab.scripts.faults["contents"] = [Unavailable("away")]
    await lab.append(wire)
    lab.watched_annotations.faults["named"] = [Unavailable("away")]
    assert lab.services.annotations is not None
    await lab.services.annotations.change(ACCOUNT, None, {SCRIPT: b"main"})  # forgets what is known
    await lab.append(wire)
    assert lab.flags() == {1: set(), 2: set()}


async def test_messages_and_mailboxes_that_are_gone_are_passed_over() -> None:
    lab = Lab()
    await lab.script('addflag "x";')
    wire = await lab.log_in()
    said = await wire.send(b"a APPEND INBOX {18+}\r\n" + SUBJECT + b"\r\n")
    assert b"a OK" in said
    lab.mail.expunge(1)
    await lab.queue.settle()
    assert lab.flags() == {}
    await lab.script('addflag "x";', "Trash")
    await wire.send(b"b APPEND Trash {18+}\r\n" + SUBJECT + b"\r\nc DELETE Trash\r\n")
    await lab.queue.settle()


async def test_changes_are_told_to_who_has_the_mailbox_open() -> None:
    lab = Lab()
    lab.mail.deliver()
    await lab.script('addflag "\\\\Flagged";')
    wire = await lab.log_in(INBOX)
    await wire.send(b"1 STORE 1 +FLAGS (\\Seen)\r\n")
    await lab.queue.settle()
    await wire.settle()
    assert b"FLAGS (\\Flagged \\Seen" in await wire.send(b"2 NOOP\r\n")


# --- the capability ---


async def test_capability_is_there_with_scripts_and_a_server_for_them() -> None:
    options: dict[str, dict[str, Any]] = {"options": {SIEVE_URL: "sieve://mail.example.org"}}
    word = b" IMAPSIEVE=sieve://mail.example.org"
    assert word in await (await Lab(**options).log_in()).send(b"1 CAPABILITY\r\n")
    assert b"IMAPSIEVE" not in await (await Lab().log_in()).send(b"1 CAPABILITY\r\n")
    options["options"][PRESENTATION] = Presentation(hidden=frozenset({b"IMAPSIEVE"}))
    assert b"IMAPSIEVE" not in await (await Lab(**options).log_in()).send(b"1 CAPABILITY\r\n")
    assert b"IMAPSIEVE" not in await (await ImapLab(**options).log_in()).send(b"1 CAPABILITY\r\n")


# --- any call may fail ---


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("nth", range(1, 12))
async def test_any_failing_call_loses_no_message(nth: int, *, is_after: bool) -> None:
    """\\Deleted is set only where the copy is."""
    lab = Lab()
    outbox = with_relay(lab)
    await lab.script('if header "subject" "x" { fileinto "Archive"; redirect "a@far.example"; }')
    wire = await lab.log_in()
    plan = FaultPlan(nth, is_after=is_after)
    lab.watched.plan = lab.watched_annotations.plan = lab.scripts.plan = plan
    await wire.send(b"a APPEND INBOX {18+}\r\n" + SUBJECT + b"\r\n")
    await lab.queue.settle()
    for flags in lab.flags().values():
        if "DELETED" in flags:
            assert len(lab.flags("Archive")) == len(outbox.sent) == 1
    assert len(outbox.sent) <= 1
    assert len(lab.flags("Archive")) <= 1
