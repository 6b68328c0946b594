"""Every Sieve extension at work: put by ManageSieve, mail by LMTP, looked at over IMAP and behind a relay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from imapclient import IMAPClient

from protocols.sieve.registry import NAMES
from storage.model import MailboxId
from storage.names import object_id
from storage.postgres.server import LocalServer
from tests.support.lineclient import LineClient
from tests.support.livenode import client_context
from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import NodeProcess
from tests.support.relaysection import undeterred
from tests.support.sieveeditor import SieveEditor
from tests.support.smtpsink import SmtpSink
from tests.support.waiting import eventually

from .conftest import PASSWORD, SECRET_HASH, needs
from .test_redirects import taken
from .test_relay import CONCURRENCY, is_empty, queue_of

ADDRESS = "eve@interop.example.test"
# Test extensions file here when their tests say what they have to; nothing else does.
YES = "Yes"
OTHER = 'require ["include", "variables"]; global "box"; set "box" "${box}Yes"; return; discard;'
MESSAGE = """\
Received: from far.example by mail.example id {number}; Tue, 1 Apr 1997 10:00:00 -0800\r
From: =?utf-8?q?Ann_Gr=C3=BCn?= <ann+work@far.example>\r
To: eve@interop.example.test\r
Subject: {name}\r
Message-ID: <{name}@far.example>\r
Date: Tue, 1 Apr 1997 09:06:31 -0800\r
X-Count: 7\r
X-Line: one\r
X-Line: two\r
X-Line: three\r
{more}MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary="cut"\r
\r
--cut\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: base64\r
\r
WW91ciBpbnZvaWNlIGlzIGR1ZS4=\r
--cut\r
Content-Type: text/html\r
Content-Disposition: attachment; filename="page.html"\r
\r
<p>some <b>bold</b> text</p>\r
--cut--\r
"""


@dataclass(frozen=True)
class Case:
    """What ``script`` makes of the message: flags by mailbox, recipients behind the relay, the LMTP code,
    octets that the stored message has and those that it has not."""

    requires: str
    script: str
    stored: Mapping[str, Sequence[str]] = field(default_factory=lambda: {YES: ()})
    sent_to: Sequence[str] = ()
    code: int = 250
    more: str = ""  # header fields
    to: str = ADDRESS
    has: Sequence[bytes] = ()
    lacks: Sequence[bytes] = ()
    times: int = 1  # it comes
    copies: int = 1  # of it in each mailbox


def require(names: str) -> str:
    return f"require [{', '.join(json.dumps(name) for name in names.split())}];\n"


def when(requires: str, *tests: str, more: str = "", to: str = ADDRESS) -> Case:
    """All of the tests hold."""
    return Case(
        f"{requires} fileinto", f'if allof (true, {", ".join(tests)}) {{ fileinto "Yes"; }}', more=more, to=to
    )


INBOX: Mapping[str, Sequence[str]] = {"INBOX": ()}
CASES: Mapping[str, Case] = {
    "fileinto": Case("fileinto", 'fileinto "Yes"; fileinto "Other";', {YES: (), "Other": ()}),
    "every-action": Case(
        "fileinto copy",
        'fileinto "Yes"; redirect "one@away.test"; redirect :copy "two@away.test"; keep;',
        {YES: (), "INBOX": ()},
        ("one@away.test", "two@away.test"),
    ),
    "copy": Case(
        "copy fileinto",
        'fileinto :copy "Yes"; redirect :copy "b@away.test";',
        {YES: (), **INBOX},
        ("b@away.test",),
    ),
    "reject": Case("reject", 'reject "Not here";', {}, code=550),
    "ereject": Case("ereject", 'ereject "Not here";', {}, code=550),
    "envelope": when(
        "envelope",
        'envelope "from" "envelope@far.example"',
        'envelope :is :localpart "to" "eve"',
        'not envelope "from" ""',
    ),
    "encoded-character": when(
        "encoded-character", 'header :is "subject" "encoded${hex:2d}char${unicode:61 63}ter"'
    ),
    "body": when(
        "body",
        'body :text :contains "invoice is due"',
        'body :raw :contains "WW91ciBpbnZvaWNl"',
        'body :content "text/html" :contains "<b>bold"',
        'not body :content "text/plain" :contains "<b>bold"',
    ),
    "environment": when(
        "environment",
        'environment :is "name" "Sora"',
        'environment :is "phase" "during"',
        'not environment :is "x" ""',
    ),
    "variables": Case(
        "variables fileinto",
        'if header :matches "from" "*<*+*@*>" { set :upperfirst :lower "where" "${3}"; }\n'
        'set :length "n" "four";\n'
        'if allof (string "${where}" "Work", string "${n}" "4") { fileinto "${yes}Yes"; }',
    ),
    "vacation": Case(
        "vacation",
        'vacation :addresses "eve@interop.example.test" "I am away";',
        INBOX,
        ("vacation@far.example",),
    ),
    "vacation-seconds": Case(
        "vacation-seconds",
        'vacation :seconds 0 "Away";',
        INBOX,
        ("vacation-seconds@far.example",) * 2,
        copies=2,
        times=2,
    ),
    "relational": when(
        "relational comparator-i;ascii-numeric",
        'header :count "eq" "x-line" "3"',
        'header :value "gt" :comparator "i;ascii-casemap" "x-line" "a"',
    ),
    "imap4flags": Case(
        "imap4flags fileinto copy",
        'setflag "money"; addflag ["\\\\Flagged", "gone"]; removeflag "gone";'
        ' if hasflag "money" { fileinto :copy :flags "\\\\Seen" "Yes"; }',
        {YES: ("\\Seen",), "INBOX": ("\\Flagged", "money")},
    ),
    "subaddress": when(
        "subaddress envelope",
        'address :user "from" "ann"',
        'address :detail "from" "work"',
        'envelope :detail "to" "lists"',
        to="eve+lists@interop.example.test",
    ),
    "date": when(
        "date relational",
        'date :zone "+0000" "date" "hour" "17"',
        'date :originalzone "date" "iso8601" "1997-04-01T09:06:31-08:00"',
        'currentdate :value "ge" "year" "2020"',
    ),
    "index": when(
        "index",
        'header :index 2 "x-line" "two"',
        'header :index 1 :last "x-line" "three"',
        'not header :index 1 "x-line" "two"',
    ),
    "editheader": Case(
        "editheader",
        'addheader "X-New" "grün"; addheader :last "X-Last" "end"; deleteheader :index 2 "X-Line";',
        INBOX,
        has=(b"X-New: =?utf-8?", b"X-Last: end\r\n", b"X-Line: one\r\nX-Line: three\r\n"),
        lacks=(b"X-Line: two",),
    ),
    "enotify": Case(
        "enotify",
        'if valid_notify_method "mailto:a@b.test" { notify :message "Look" "mailto:enotify@pager.test"; }',
        INBOX,
        ("enotify@pager.test",),
    ),
    "ihave": Case(
        "ihave", 'if ihave "fileinto" { fileinto "Yes"; } if ihave "vnd.none" { unheard :of "it"; }'
    ),
    "mailbox": Case(
        "mailbox fileinto",
        'if allof (mailboxexists ["INBOX", "Yes"], not mailboxexists "Made/Deep")'
        ' { fileinto :create "Made/Deep"; }',
        {"Made/Deep": ()},
    ),
    "mboxmetadata": when(
        "mboxmetadata",
        'metadata "Yes" "/private/comment" "mine"',
        'not metadataexists "Other" "/private/comment"',
    ),
    "servermetadata": when(
        "servermetadata",
        'servermetadata :contains "/private/vendor/x/y" "the"',
        'not servermetadataexists "/private/none"',
    ),
    "include": Case(
        "include variables fileinto",
        'global "box"; include :once "other"; include :once "other"; include :optional "none";'
        ' fileinto "${box}";',
    ),
    "duplicate": Case(
        "duplicate fileinto", 'if not duplicate :handle "h" { fileinto "Yes"; stop; } discard;', times=3
    ),
    "special-use": Case(
        "special-use fileinto",
        'if allof (specialuse_exists "\\\\Junk", not specialuse_exists "Yes" "\\\\Junk")'
        ' { fileinto :specialuse "\\\\Junk" "Nowhere"; }',
        {"Junk": ()},
    ),
    "fcc": Case(
        "fcc vacation imap4flags",
        'vacation :fcc "Other" :flags "\\\\Seen" "x";',
        {**INBOX, "Other": ("\\Seen",)},
        ("fcc@far.example",),
    ),
    "mailboxid": Case(
        "mailboxid fileinto",
        'if allof (mailboxidexists "<ID OF YES>", not mailboxidexists "none")'
        ' { fileinto :mailboxid "<ID OF YES>" "Nowhere"; }',
    ),
    "spamtest": when("spamtest", 'spamtest "10"', more="X-Spam-Status: Yes, score=12.0 required=5.0\r\n"),
    "spamtestplus": when(
        "spamtestplus relational comparator-i;ascii-numeric",
        'spamtest :percent :value "eq" :comparator "i;ascii-numeric" "25"',
        more="X-Spam-Status: No, score=2.5 required=5.0\r\n",
    ),
    "virustest": when("virustest", 'virustest "5"', more="X-Virus-Status: Infected (Eicar)\r\n"),
    "extlists": Case(
        "extlists fileinto copy",
        'if allof (valid_ext_list "tag:sora,2026:friends", header :list "x-who" "tag:sora,2026:friends",'
        ' not header :list "x-other" "tag:sora,2026:friends") { fileinto "Yes";'
        ' redirect :list :copy "tag:sora,2026:friends"; }',
        sent_to=("bob@friends.test", "carl@friends.test"),
        more="X-Who: bob@friends.test\r\nX-Other: dora@friends.test\r\n",
    ),
    "foreverypart": Case(
        "foreverypart mime fileinto",
        'foreverypart :name "p" { if header :mime :subtype "content-type" "html"'
        ' { fileinto "Yes"; break :name "p"; } }',
    ),
    "mime": when(
        "mime",
        'header :mime :anychild :contenttype "content-type" "text/html"',
        'header :mime :anychild :param "filename" "content-disposition" "page.html"',
        'not header :mime :type "content-type" "text"',
    ),
    "extracttext": Case(
        "extracttext foreverypart mime variables fileinto",
        'foreverypart { if header :mime :type "content-type" "text" { extracttext :first 12 "t"; break; } }'
        ' if string "${t}" "Your invoice" { fileinto "Yes"; }',
    ),
    "replace": Case(
        "replace foreverypart mime",
        'foreverypart { if header :mime :subtype "content-type" "html" { replace "It was removed."; } }',
        INBOX,
        has=(b"It was removed.", b"WW91ciBpbnZvaWNl"),
        lacks=(b"<b>bold",),
    ),
    "enclose": Case(
        "enclose",
        'enclose :subject "Careful" :headers "x-count" "There is an attachment.";',
        INBOX,
        has=(
            *(b"Subject: Careful\r\n", b"From: <eve@interop.example.test>\r\n", b"X-Count: 7\r\n"),
            *(b"There is an attachment.", b"message/rfc822", b"Subject: enclose\r\n", b"<b>bold"),
        ),
    ),
    "regex": when("regex", 'header :regex "x-line" "^t(wo|en)$"', 'not header :regex "x-line" "^o$"'),
    "comparator-i;octet": when("comparator-i;octet", 'not header :comparator "i;octet" "x-line" "ONE"'),
    "comparator-i;ascii-casemap": when(
        "comparator-i;ascii-casemap", 'header :comparator "i;ascii-casemap" "x-line" "ONE"'
    ),
    "comparator-i;ascii-numeric": when(
        "comparator-i;ascii-numeric", 'header :comparator "i;ascii-numeric" "x-count" "007"'
    ),
    "comparator-i;unicode-casemap": when(
        "comparator-i;unicode-casemap", 'header :contains :comparator "i;unicode-casemap" "from" "GRÜN"'
    ),
    # at delivery it changes nothing; what it is for has a test of its own
    "imapsieve": when(
        "imapsieve environment", 'environment "imap.changedflags" ""', 'not environment "imap.cause" "APPEND"'
    ),
}


def test_every_extension_has_a_case() -> None:
    assert CASES.keys() >= NAMES


async def mailbox_id(node: NodeProcess, name: str) -> MailboxId:
    data = node.directory / "data"
    server = LocalServer(data / "postgres", (data / "postgres.password").read_text())
    connection = await server.connect("sora_mail_db")
    found: MailboxId = await connection.fetchval("SELECT id FROM mailboxes WHERE name = $1", name)
    await connection.close()
    return found


class World:
    """A node with everything that scripts may use, and the clients of its one user. What a case leaves is
    taken away when it is looked at."""

    def __init__(self, node: NodeProcess, sink: SmtpSink) -> None:
        node.admin("accounts", "create", ADDRESS, "--password-hash", SECRET_HASH)
        self.node = node
        self._sink = sink
        self._seen = 0
        self._editor = SieveEditor(node, ADDRESS, PASSWORD)
        self._reader = IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node))
        self._reader.login(ADDRESS, PASSWORD)
        self._line = LineClient(node.port("imaps"), client_context(node))
        assert self._line.login(ADDRESS, PASSWORD).startswith(b"OK")
        for mailbox in (YES, "Other"):
            self._reader.create_folder(mailbox)
        self.id_of_yes = object_id(asyncio.run(mailbox_id(node, YES)))

    def put(self, name: str, script: str) -> None:
        raw = script.encode()
        status, _ = self._editor.ask(b'PUTSCRIPT "%b" {%d+}\r\n%b\r\n' % (name.encode(), len(raw), raw))
        assert status.startswith(b"OK"), status

    def activate(self, name: str) -> None:
        assert self._editor.ask(b'SETACTIVE "%b"\r\n' % name.encode())[0].startswith(b"OK")

    def imap(self, command: str) -> list[bytes]:
        status, lines = self._line.imap(command.encode())
        assert status.startswith(b"OK"), status
        return lines

    def deliver(self, name: str, case: Case) -> list[int]:
        sender = f"{name.replace(';', '-')}@far.example"

        async def run() -> list[int]:
            client = await LmtpClient.connect("127.0.0.1", self.node.port("lmtp"))
            codes = []
            for number in range(case.times):
                message = MESSAGE.format(name=name, number=number, more=case.more)
                ((code, _),) = await client.deliver(message.encode(), [case.to], sender)
                codes.append(code)
            await client.close()
            return codes

        return asyncio.run(run())

    def stored(self) -> dict[str, list[tuple[set[str], bytes]]]:
        """Flags and octets of all messages, by mailbox."""
        found: dict[str, list[tuple[set[str], bytes]]] = {}
        for _, _, mailbox in self._reader.list_folders():
            self._reader.select_folder(mailbox)
            uids = self._reader.search()
            for entry in self._reader.fetch(uids, ["FLAGS", "BODY.PEEK[]"]).values():
                flags = {flag.decode() for flag in entry[b"FLAGS"]} - {"\\Recent"}
                found.setdefault(mailbox, []).append((flags, entry[b"BODY[]"]))
            self._reader.delete_messages(uids)
            self._reader.expunge()
        return found

    def sent_to(self) -> list[str]:
        """Recipients of what came to the other side of the relay."""
        eventually(lambda: is_empty(self.node))
        fresh = taken(self._sink)[self._seen :]
        self._seen += len(fresh)
        return sorted(recipient for each in fresh for recipient in each.recipients)

    def close(self) -> None:
        self._editor.close()
        self._line.close()
        self._reader.logout()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    needs("smtp-sink")
    every = ", ".join(f'"{name}"' for name in sorted(NAMES))
    with SmtpSink() as sink:
        node = NodeProcess()
        lists = node.directory / "lists"
        lists.mkdir()
        (lists / "friends.list").write_text("bob@friends.test\ncarl@friends.test\n")
        more = undeterred(sink.port, queue_of(node), max_attempts=50, concurrency=CONCURRENCY)
        more += f'[sieve]\nenabled_extensions = [{every}]\nlists_path = "{lists}"\n'
        with node.prepare(lambda config: config + more):
            world = World(node, sink)
            world.put("other", OTHER)
            world.imap('SETMETADATA Yes (/private/comment "mine")')
            world.imap('SETMETADATA "" (/private/vendor/x/y "over the top")')
            yield world
            world.close()


@pytest.mark.parametrize("name", CASES)
def test_at_delivery(world: World, name: str) -> None:
    case = CASES[name]
    script = case.script.replace("<ID OF YES>", world.id_of_yes)
    world.put("case", f"{require(case.requires)}{script}\n")
    world.activate("case")
    assert world.deliver(name, case) == [case.code] * case.times
    stored = world.stored()
    assert {box: [flags for flags, _ in found] for box, found in stored.items()} == {
        box: [set(flags)] * case.copies for box, flags in case.stored.items()
    }
    assert world.sent_to() == sorted(case.sent_to)
    for _, octets in stored.get("INBOX", ()):
        assert all(each in octets for each in case.has), octets
        assert not any(each in octets for each in case.lacks), octets


def test_on_an_event(world: World) -> None:
    """imapsieve (RFC 6785), which delivery does not show."""
    tests = (
        'environment "imap.cause" "APPEND"',
        'environment "imap.mailbox" "Other"',
        f'environment "imap.user" "{ADDRESS}"',
        f'environment "imap.email" "{ADDRESS}"',
        'environment "imap.changedflags" ""',
        'environment "location" "MS"',
        'environment "phase" "post"',
    )
    world.put(
        "events",
        f'{require("imapsieve environment fileinto")}if allof ({", ".join(tests)}) {{ fileinto "Yes"; }}',
    )
    world.imap('SETMETADATA Other (/shared/imapsieve/script "events")')
    world.imap("APPEND Other {12+}\r\nSubject: x\r\n")
    eventually(lambda: b"MESSAGES 1" in b"".join(world.imap("STATUS Yes (MESSAGES)")))
    eventually(lambda: b"DELETED 1" in b"".join(world.imap("STATUS Other (DELETED)")))
    assert {box: [flags for flags, _ in found] for box, found in world.stored().items()} == {
        YES: [set()],
        "Other": [{"\\Deleted"}],
    }
