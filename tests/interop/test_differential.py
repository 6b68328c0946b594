"""The same mail and commands to a node and to Debian's Dovecot: equal answers, or a row in the table.

See ``differential.DIFFERENCES``. Random parts print their seed when they fail.
"""

from __future__ import annotations

import poplib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import dovecot
from tests.support.corpus import hostile, messages
from tests.support.dovecot import Dovecot
from tests.support.imapraw import Atom, ImapRaw, Reply, flags_of, numbers
from tests.support.nodeprocess import NodeProcess, public_directory
from tests.support.tricky import tricky

from .conftest import PASSWORD
from .differential import Judge, Pair

Connect = Callable[[], Pair]


@pytest.fixture(scope="session")
def oracle(node: NodeProcess) -> Iterator[Dovecot]:
    if not dovecot.is_installed():
        pytest.skip("Dovecot is not installed, or this is not root; .ci/run installs it")
    key = node.certificate.parent / "key.pem"
    directory = public_directory("sora-oracle-")
    running = Dovecot.start(directory, node.certificate, key)
    yield running
    running.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def connect(node: NodeProcess, oracle: Dovecot, account: str) -> Iterator[Connect]:
    """A new pair of logged in connections to the account of this test."""
    pairs: list[Pair] = []

    def make() -> Pair:
        ours = ImapRaw(node.port("imap"), account, PASSWORD)
        pairs.append(Pair(ours, ImapRaw(oracle.imap, account, dovecot.PASSWORD)))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def corpus(count: int) -> dict[str, bytes]:
    """By name. Line ends are CRLF throughout: Dovecot makes bare line feeds to such, we keep them."""
    everything = {**tricky(), **hostile(), **{f"corpus {n}": m for n, m in enumerate(messages(5, count))}}
    return {name: m for name, m in everything.items() if m and b"\n" not in m.replace(b"\r\n", b"")}


# --- FETCH ----------------------------------------------------------------------------------------

WHOLE_ITEMS = (
    b"RFC822.SIZE",
    b"INTERNALDATE",
    b"ENVELOPE",
    b"BODYSTRUCTURE",
    b"BODY",
    b"RFC822.HEADER",
    b"RFC822.TEXT",
    b"RFC822",
    b"BODY.PEEK[]",
    b"BODY.PEEK[HEADER]",
    b"BODY.PEEK[TEXT]",
    b"BODY.PEEK[]<0.10>",
    b"BODY.PEEK[]<10.1000000>",
    b"BODY.PEEK[TEXT]<5.7>",
    b"BODY.PEEK[HEADER]<3.30>",
    b"BODY.PEEK[]<1000000000.5>",
    b"BODY.PEEK[1]<2.3>",
    b"BODY.PEEK[HEADER.FIELDS (Subject)]<2.9>",
    b"BODY.PEEK[HEADER.FIELDS (Subject From)]",
    b"BODY.PEEK[HEADER.FIELDS.NOT (Subject From)]",
    b"BODY.PEEK[HEADER.FIELDS (to cc x-none)]",
    b"BODY.PEEK[HEADER.FIELDS (X-None)]",
    b'BODY.PEEK[HEADER.FIELDS ("Date")]',
    b"BINARY.PEEK[1]<2.5>",
)
PARTS = (
    b"1 2 3 4 5 1.1 1.2 2.1 2.2 3.1 3.2 4.1 4.2 1.1.1 1.1.2 4.2.1 4.2.2 4.2.2.1 4.2.2.2 4.2.2.3 1.1.1.1"
).split()
PART_ITEMS = (
    b"BODY.PEEK[%b]",
    b"BODY.PEEK[%b.MIME]",
    b"BODY.PEEK[%b.HEADER]",
    b"BODY.PEEK[%b.TEXT]",
    b"BODY.PEEK[%b.HEADER.FIELDS (Subject)]",
    b"BODY.PEEK[%b.HEADER.FIELDS.NOT (Subject)]",
)


def fetched(reply: Reply, item: bytes) -> tuple[str, Any]:
    """Status and value; the name under which it came must be the one that was asked for."""
    rows = [row for row in reply.fetched().values() if set(row) - {b"FLAGS", b"UID"}]
    if not rows:
        return reply.status, None
    [row] = rows
    name = item.replace(b".PEEK", b"").upper()
    if name.endswith(b">"):
        name = name.rpartition(b".")[0] + b">"
    names = {key.replace(b'"', b"") for key in row}
    assert name.replace(b'"', b"") in names, (name, list(row))
    return reply.status, next(value for key, value in row.items() if key not in (b"FLAGS", b"UID"))


def test_fetch(connect: Connect) -> None:
    pair, judge = connect(), Judge("fetch")
    mail = corpus(25)
    pair.ok(b"CREATE mail")
    for message in mail.values():
        pair.append(b"mail", message, b'(\\Seen) "17-Jul-1996 02:44:25 -0700" ')
    pair.ok(b"SELECT mail")
    for seq, name in enumerate(mail, start=1):
        items = [*WHOLE_ITEMS]
        if not name.startswith("corpus") or "nested" in name:
            items += [form % part for part in PARTS for form in PART_ITEMS]
        items += [b"BINARY.PEEK[%b]" % part for part in leaves(pair.ours, seq)[:20]]
        for item in items:
            ours, theirs = pair.command(b"FETCH %d %b" % (seq, item))
            where = f"{name}: {item.decode()}"
            (status, value), (their_status, their_value) = fetched(ours, item), fetched(theirs, item)
            if status != their_status:
                judge.compare(where, [status.encode(), value], [their_status.encode(), their_value])
            elif status == "OK":
                judge.compare(where, value, their_value)
    assert judge.compared > 8_000
    judge.verdict()


def leaves(server: ImapRaw, seq: int) -> list[bytes]:
    """Numbers of the parts that have a transfer encoding of their own."""
    structure = server.ok(b"FETCH %d BODY" % seq).fetched()[seq][b"BODY"]

    def walk(node: list[Any], path: bytes) -> Iterator[bytes]:
        if isinstance(node[0], list):
            for number, child in enumerate((n for n in node if isinstance(n, list)), start=1):
                yield from walk(child, b"%b.%d" % (path, number) if path else b"%d" % number)
        elif node[0].upper() != b"MESSAGE":
            yield path or b"1"

    return list(walk(structure, b""))


def test_binary_size_is_the_size_of_binary(connect: Connect) -> None:
    """Not compared: Dovecot 2.3 subtracts too much for several parts of one message."""
    server, mail = connect().ours, corpus(10)
    for message in mail.values():
        server.append(b"INBOX", message)
    server.ok(b"SELECT INBOX")
    for seq in range(1, len(mail) + 1):
        for part in leaves(server, seq)[:10]:
            reply = server.command(b"FETCH %d (BINARY.SIZE[%b] BINARY.PEEK[%b])" % (seq, part, part))
            if reply.status == "OK":
                row = reply.fetched()[seq]
                assert int(row[b"BINARY.SIZE[%b]" % part]) == len(row[b"BINARY[%b]" % part])
            else:
                assert reply.code == b"UNKNOWN-CTE"


# --- SEARCH ---------------------------------------------------------------------------------------

FLAGS = [
    b"\\Seen",
    b"\\Answered",
    b"\\Flagged",
    b"\\Deleted",
    b"\\Draft",
    b"$Forwarded",
    b"NonJunk",
    b"$Label1",
]
HEADER_WORDS = (
    "invoice",
    "INVOICE",
    "quarterly",
    "Łódź",
    "łódź",
    "山田",
    "Übergröß",
    "foobar",
    "Fred Foobar",
    "joe",
    "pat",
    "O'Brien",
    "corner",
    "example.test",
    "fältström",
    "IF YOU CAN READ",
    "read this yo",
    "Müller",
    "nil",
    "list]",
    "",
    "project the",
    "a b c",
    "Žluťoučký",
    "✓",
    "\\back",
    '"quoted"',
    "@",
    "sender1",
    "undisclosed",
)
BODY_WORDS = (
    "invoice",
    "INVOICE",
    "quarterly",
    "meeting tomorrow",
    "façade",
    "FAÇADE",
    "naïve",
    "secretword",
    "soft break",
    "softbreak",
    "hello joe",
    "Hello  Joe",
    "attached regards",
    "ΣΊΣΥΦΟΣ",
    "preamble",
    "epilogue",
    "only",
    "R3LDv",
    "nul",
    "iVBOR",
    "last line",
    "one",
)
TEXT_WORDS = ("foobar", "quarterly", "secretword", "Fred Foobar", "façade", "corner", "hello joe", "山田")


class Keys:
    """Random search keys: pieces of a command, every second one a string."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.rng = rng
        self.count = count

    def key(self, depth: int = 0) -> list[bytes]:
        makers = [self._flag, self._date, self._size, self._set, self._uid, self._header, self._text]
        if depth < 3:
            makers += [self._not, self._or, self._group]
        return self.rng.choice(makers)(depth)

    def _flag(self, _depth: int) -> list[bytes]:
        name = self.rng.choice(["SEEN", "ANSWERED", "FLAGGED", "DELETED", "DRAFT"])
        keyword = self.rng.choice(["$Forwarded", "$forwarded", "NonJunk", "$Label1", "Unknown"])
        choices = ["ALL", name, f"UN{name}", f"KEYWORD {keyword}", f"UNKEYWORD {keyword}"]
        return [self.rng.choice(choices).encode()]

    def _date(self, _depth: int) -> list[bytes]:
        name = self.rng.choice(["BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE"])
        day, month = self.rng.randint(1, 28), self.rng.choice(["Jan", "feb", "Jul", "NOV"])
        return [f"{name} {day}-{month}-{self.rng.choice([1994, 1996, 1999, 2024, 2025])}".encode()]

    def _size(self, _depth: int) -> list[bytes]:
        name = self.rng.choice(["LARGER", "SMALLER"])
        return [f"{name} {self.rng.choice([0, 100, 300, 1000, 5000, 20000, 100000])}".encode()]

    def _set(self, _depth: int) -> list[bytes]:
        one, other = self.rng.randint(1, self.count), self.rng.randint(1, self.count)
        return [self.rng.choice([f"{one}", f"{one}:{other}", f"{one}:*", "*", f"1,{one},{other}:3"]).encode()]

    def _uid(self, _depth: int) -> list[bytes]:
        one = self.rng.randint(1, self.count + 20)
        return [b"UID " + self.rng.choice([f"{one}", f"{one}:*", f"*:{one}", f"5:{one},7"]).encode()]

    def _header(self, _depth: int) -> list[bytes]:
        fields = ["Message-ID", "X-Raw", "received", "Subject", "X-Empty", "To", "X-None"]
        name = self.rng.choice(
            ["FROM", "TO", "CC", "BCC", "SUBJECT", *(f"HEADER {field}" for field in fields)]
        )
        return [name.encode() + b" ", self.rng.choice(HEADER_WORDS).encode(), b""]

    def _text(self, _depth: int) -> list[bytes]:
        name, words = self.rng.choice([(b"BODY ", BODY_WORDS), (b"TEXT ", TEXT_WORDS)])
        return [name, self.rng.choice(words).encode(), b""]

    def _not(self, depth: int) -> list[bytes]:
        return joined([b"NOT "], self.key(depth + 1))

    def _or(self, depth: int) -> list[bytes]:
        return joined([b"OR "], self.key(depth + 1), [b" "], self.key(depth + 1))

    def _group(self, depth: int) -> list[bytes]:
        return joined([b"("], self.key(depth + 1), [b" "], self.key(depth + 1), [b")"])


def joined(*keys: list[bytes]) -> list[bytes]:
    found = [b""]
    for key in keys:
        found = [*found[:-1], found[-1] + key[0], *key[1:]]
    return found


def spelled(key: list[bytes]) -> bytes:
    """Strings as non-synchronizing literals."""
    words = (b"{%d+}\r\n%b" % (len(word), word) if n % 2 else word for n, word in enumerate(key))
    return b"".join(words)


def test_search(connect: Connect) -> None:
    judge = Judge("search")
    for seed in (1, 2, 3):
        search_at_random(connect(), judge, seed)
    judge.verdict()


def search_at_random(pair: Pair, judge: Judge, seed: int) -> None:
    rng = random.Random(seed)
    mail = {name: m for name, m in corpus(40).items() if not name.startswith(("ten thousand", "nested"))}
    names = list(mail)
    box = b"mail%d" % seed
    pair.ok(b"CREATE %b" % box)
    for message in mail.values():
        flags = b" ".join(rng.sample(FLAGS, rng.randrange(4)))
        zone = rng.choice(["+0000", "-0800", "+0530"])
        hour, minute = rng.randrange(24), rng.randrange(60)
        day = f"{rng.randint(1, 28):2}-{rng.choice(['Jan', 'Feb', 'Nov'])}-{rng.choice([2024, 2025])}"
        options = b'(%b) "%b" ' % (flags, f"{day} {hour:02}:{minute:02}:00 {zone}".encode())
        pair.append(box, message, options)
    pair.ok(b"EXAMINE %b" % box)
    keys = Keys(rng, len(names))
    for number in range(250):
        form = (b"SEARCH CHARSET UTF-8 ", b"UID SEARCH CHARSET UTF-8 ")[number % 2]
        question = form + spelled(keys.key())
        found = [frozenset(names[n - 1] for n in numbers(reply)) for reply in pair.ok(question)]
        judge.compare(f"seed {seed}: {question.decode()}", *found)


REFUSED = (
    b"SEARCH",
    b"SEARCH FOO",
    b"SEARCH NOT",
    b"SEARCH OR SEEN",
    b"SEARCH (SEEN",
    b"SEARCH SEEN)",
    b"SEARCH 0",
    b"SEARCH 1:0",
    b"SEARCH SUBJECT",
    b"SEARCH BEFORE 31-Foo-2020",
    b"SEARCH LARGER x",
    b"SEARCH KEYWORD",
    b"SEARCH RETURN (FOO) ALL",
    b"SEARCH UID x",
    b"SEARCH HEADER Subject",
    b"SEARCH CHARSET X-NO ALL",
    b"SEARCH  ALL",
    b"SEARCH ALL ",
    b"FETCH",
    b"FETCH 1",
    b"FETCH 1 FOO",
    b"FETCH 1 ()",
    b"FETCH 1 (FLAGS",
    b"FETCH 1 BODY[",
    b"FETCH 1 BODY[FOO]",
    b"FETCH 1 BODY[MIME]",
    b"FETCH 1 BODY[1.FOO]",
    b"FETCH 0 FLAGS",
    b"FETCH 1 BODY[]<5>",
    b"FETCH 1 BODY[HEADER.FIELDS]",
    b"FETCH 1 BODY[HEADER.FIELDS ()]",
    b"FETCH x FLAGS",
    b"STORE 1 FLAGS",
    b"STORE 1 FOO (\\Seen)",
    b"STORE 1 FLAGS (\\Foo)",
    b"COPY 1",
    b"COPY x y",
    b"COPY 1 nowhere",
    b"MOVE 1 nowhere",
    b"UID FOO 1",
    b"UID FETCH 1",
    b"UID",
    b"SELECT",
    b"SELECT nowhere",
    b"STATUS mail",
    b"STATUS mail ()",
    b"STATUS mail (FOO)",
    b"STATUS nowhere (MESSAGES)",
    b"LIST",
    b'LIST ""',
    b"CREATE",
    b"CREATE INBOX",
    b"CREATE mail",
    b"DELETE nowhere",
    b"DELETE INBOX",
    b"RENAME mail",
    b"RENAME nowhere other",
    b"RENAME mail INBOX",
    b"APPEND",
    b"APPEND mail",
    b"ENABLE",
    b"NAMESPACE x",
    b"ID",
    b"ID (",
    b'ID ("a")',
    b"NOOP x",
    b"CAPABILITY x",
    b"LOGIN a b",
    b"AUTHENTICATE PLAIN",
    b"STARTTLS",
    b"FOO",
    b"UNSELECT x",
    b"CLOSE x",
    b"EXPUNGE x",
    b"UID EXPUNGE",
    b"UID EXPUNGE x",
    b"UID SEARCH",
    b'XLIST "" *',
    b"SUBSCRIBE",
    b"UNSUBSCRIBE",
    b"LSUB",
    b"CHECK x",
    b"GETACL mail",
    b"FETCH 5 FLAGS",
    b"FETCH 1:5 FLAGS",
    b"FETCH 5:6 FLAGS",
    b"STORE 5 +FLAGS (x)",
    b"COPY 5 INBOX",
    b"SEARCH 5",
    b"SEARCH 5:6",
    b"UID FETCH 99 FLAGS",
    b"UID STORE 99 +FLAGS (x)",
    b"UID COPY 99 INBOX",
    b"UID MOVE 99 INBOX",
    b"UID EXPUNGE 99",
    b"UID FETCH 1 (FLAGS) (CHANGEDSINCE x)",
    b"STORE 1 (UNCHANGEDSINCE x) FLAGS ()",
    b"SELECT mail (FOO)",
    b'LIST (FOO) "" *',
    b'LIST "" * RETURN (FOO)',
    b"CREATE a//b",
    b"CREATE a&b",
    b"RENAME mail a//b",
    b"SUBSCRIBE nowhere",
    b"UNSUBSCRIBE nowhere",
    b"ENABLE FOO",
    b"APPEND nowhere {3+}\r\nabc",
    b"APPEND mail {0+}\r\n",
    b"APPEND mail (\\Foo) {3+}\r\nabc",
    b'APPEND mail "x" {3+}\r\nabc',
    b"COMPRESS DEFLATE",
)


def test_refusals(connect: Connect) -> None:
    """The same tagged word, and where both tell a response code, the same one."""
    pair, judge = connect(), Judge("refusal")
    pair.ok(b"CREATE mail")
    pair.append(b"mail", b"Subject: x\r\n\r\nx\r\n")
    for question in REFUSED:
        pair.ok(b"SELECT mail")
        ours, theirs = pair.command(question)
        codes = [reply.code.split(b" ")[0] for reply in (ours, theirs)]
        if not all(codes):
            codes = [b"", b""]
        words = [[reply.status, code] for reply, code in zip((ours, theirs), codes, strict=True)]
        judge.compare(question.decode(), *words)
    judge.verdict()


# --- flags, copies, expunges ----------------------------------------------------------------------

BOXES = (b"INBOX", b"one", b"two/three")


class Traffic:
    """Random commands of two sessions, the same to both servers; uids are the same as both start empty."""

    def __init__(self, rng: random.Random, sessions: list[Pair]) -> None:
        self.rng = rng
        self.sessions = sessions
        self.done: list[bytes] = []

    def step(self) -> None:
        session = self.rng.choice(self.sessions)
        self.run(session, self._command())

    def run(self, session: Pair, command: bytes) -> None:
        self.done.append(b"%d %b" % (self.sessions.index(session), command))
        ours, theirs = session.command(command)
        assert ours.status == theirs.status, (self.done[-5:], ours, theirs)
        assert copied(ours) == copied(theirs), (self.done[-5:], ours, theirs)

    def _uids(self) -> bytes:
        one, other = self.rng.randint(1, 30), self.rng.randint(1, 30)
        return self.rng.choice(
            [b"%d" % one, b"%d:%d" % (one, other), b"%d,%d" % (one, other), b"%d:*" % one, b"1:*"]
        )

    def _command(self) -> bytes:
        rng, uids = self.rng, self._uids()
        flags = b" ".join(rng.sample(FLAGS, rng.randint(1, 3)))
        change = rng.choice([b"FLAGS", b"+FLAGS", b"-FLAGS"]) + rng.choice([b"", b".SILENT"])
        target = rng.choice(BOXES)
        return rng.choice(
            [
                b"UID STORE %b %b (%b)" % (uids, change, flags),
                b"UID STORE %b %b (%b)" % (uids, change, flags),
                b"UID STORE %b +FLAGS (\\Deleted)" % uids,
                b"UID COPY %b %b" % (uids, target),
                b"UID MOVE %b one" % uids,
                b"EXPUNGE",
                b"UID EXPUNGE %b" % uids,
                b"NOOP",
                b"UID FETCH %b BODY[1]" % uids,
            ]
        )


def copied(reply: Reply) -> list[list[int]]:
    """Uids of COPYUID, without UIDVALIDITY."""
    for code in reply.codes():
        if code.startswith(b"COPYUID"):
            return [expanded(part) for part in code.split()[2:]]
    return []


def expanded(parts: bytes) -> list[int]:
    found: list[int] = []
    for part in parts.split(b","):
        low, _, high = part.partition(b":")
        found += range(int(low), int(high or low) + 1)
    return found


def contents(server: ImapRaw, box: bytes) -> dict[int, frozenset[bytes]]:
    server.ok(b"SELECT %b" % box)
    rows = server.ok(b"UID FETCH 1:* (UID FLAGS)").fetched().values()
    return {int(row[b"UID"]): flags_of(row[b"FLAGS"]) for row in rows if b"UID" in row}


@pytest.mark.parametrize("seed", range(8))
def test_traffic(connect: Connect, seed: int) -> None:
    rng = random.Random(seed)
    sessions = [connect(), connect()]
    sessions[0].ok(b"CREATE one")
    sessions[0].ok(b"CREATE two/three")
    for number in range(12):
        sessions[0].append(b"INBOX", b"Subject: %d\r\n\r\nx\r\n" % number, rng.choice([b"", b"(\\Seen) "]))
    for session in sessions:
        session.ok(b"SELECT INBOX")
    traffic = Traffic(rng, sessions)
    for _ in range(40):
        traffic.step()
        for session in sessions:  # both servers' views are those of the same moment
            session.ok(b"NOOP")
    for box in BOXES:
        ours, theirs = (contents(server, box) for server in (sessions[0].ours, sessions[0].theirs))
        assert ours == theirs, (seed, box, traffic.done)
        question = b"STATUS %b (MESSAGES UIDNEXT UNSEEN)" % box
        rows = [reply.data(b"STATUS")[0][2] for reply in sessions[1].ok(question)]
        assert rows[0] == rows[1], (seed, box, traffic.done)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_stay_true(connect: Connect, seed: int) -> None:
    """A client that only counts EXISTS and EXPUNGE lines knows which message has which number."""
    rng = random.Random(seed)
    sessions = [connect().ours, connect().ours]
    for number in range(20):
        sessions[0].append(b"INBOX", b"Subject: %d\r\n\r\nx\r\n" % number)
    known = [list(range(20)), list(range(20))]
    for server in sessions:
        server.ok(b"SELECT INBOX")
    for _ in range(30):
        who = rng.randrange(2)
        server, view = sessions[who], known[who]
        if not view:
            break
        seq = rng.randint(1, len(view))
        reply = server.command(
            rng.choice([b"STORE %d +FLAGS (\\Deleted)" % seq, b"EXPUNGE", b"NOOP", b"FETCH %d FLAGS" % seq])
        )
        assert reply.status == "OK", reply
        follow(view, reply)
        check = server.ok(b"FETCH 1:* (BODY.PEEK[HEADER.FIELDS (Subject)])")
        for number, row in check.fetched().items():
            value = row.get(b"BODY[HEADER.FIELDS (SUBJECT)]")
            if value:
                assert value == b"Subject: %d\r\n\r\n" % view[number - 1], (seed, number)
        follow(view, check)


def follow(view: list[int], reply: Reply) -> None:
    for line in reply.untagged:
        words = line.split()
        if words[2:3] == [b"EXPUNGE"]:
            del view[int(words[1]) - 1]
        elif words[2:3] == [b"EXISTS"]:
            assert int(words[1]) == len(view)


def highest(server: ImapRaw) -> int:
    [row] = server.ok(b"STATUS INBOX (HIGHESTMODSEQ)").data(b"STATUS")
    return int(row[2][1])


@pytest.mark.parametrize("seed", range(4))
def test_condstore(connect: Connect, seed: int) -> None:
    """Mod-sequences are each server's own; what changed since a moment is the same."""
    rng, count = random.Random(seed), 12
    pair, other = connect(), connect()
    for number in range(count):
        pair.append(b"INBOX", b"Subject: %d\r\n\r\nx\r\n" % number)
    pair.ok(b"SELECT INBOX (CONDSTORE)")
    other.ok(b"SELECT INBOX")
    moments = [(highest(pair.ours), highest(pair.theirs))]
    for step in range(25):
        since = rng.choice(moments)
        writer = rng.choice([pair, other])
        uids = b",".join(b"%d" % uid for uid in sorted(rng.sample(range(1, count + 1), 3)))
        change = b"%bFLAGS%b (%b)" % (
            rng.choice([b"+", b"-"]),
            rng.choice([b"", b".SILENT"]),
            rng.choice(FLAGS),
        )
        conditional = rng.random() < 0.5
        found = []
        for server, moment in zip((writer.ours, writer.theirs), since, strict=True):
            guard = b"(UNCHANGEDSINCE %d) " % moment if conditional else b""
            reply = server.ok(b"UID STORE %b %b%b" % (uids, guard, change))
            words = reply.code.split()
            found.append(expanded(words[1]) if words[:1] == [b"MODIFIED"] else [])
        assert found[0] == found[1], (seed, step, uids, change)
        pair.ok(b"NOOP")
        moments.append((highest(pair.ours), highest(pair.theirs)))
        changed = []
        for server, moment in zip((pair.ours, pair.theirs), since, strict=True):
            rows = server.ok(b"UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d)" % moment).fetched().values()
            changed.append({int(row[b"UID"]): flags_of(row[b"FLAGS"]) for row in rows if b"MODSEQ" in row})
            sought = server.ok(b"UID SEARCH MODSEQ %d" % (moment + 1))
            assert set(numbers(sought)) == set(changed[-1]), (seed, step)
        assert changed[0] == changed[1], (seed, step)


# --- LIST, LSUB -----------------------------------------------------------------------------------


def listed(reply: Reply, kind: bytes) -> dict[bytes, set[bytes]]:
    known = {b"\\noselect", b"\\nonexistent", b"\\haschildren", b"\\hasnochildren", b"\\subscribed"}
    rows: dict[bytes, set[bytes]] = {}
    for row in reply.data(kind):
        assert row[3] not in rows, f"{row[3]!r} comes twice"
        rows[bytes(row[3])] = {flag.lower() for flag in row[1]} & known
    return rows


PATTERNS = (
    "*",
    "%",
    "%/%",
    "%/%/%",
    "a*",
    "a%",
    "*b",
    "%b",
    "a/*",
    "a/%",
    "a/b",
    "a/b/*",
    "a/b/%",
    "a/%/c",
    "*/c",
    "%/c",
    "*a*",
    "%a%",
    "a*c",
    "a%c",
    "**",
    "%%",
    "*%",
    "%*",
    "INBOX",
    "inbox",
    "inb%",
    "I*",
    "INBOX/*",
    "inbox/%",
    "",
    "a/",
    "a/%/",
    "nothing",
    "x y",
    "&AOQ-*",
    "*&AOQ-",
)


@pytest.mark.parametrize("seed", [1, 2])
def test_list(connect: Connect, seed: int) -> None:
    pair, judge, rng = connect(), Judge("list"), random.Random(seed)
    parts = ["a", "b", "c", "ab", "x y", "&AOQ-"]
    for name in ("Archive", "Drafts", "Junk", "Sent", "Trash"):  # what a new account has here
        pair.ours.ok(b"DELETE %b" % name.encode())
        pair.ours.ok(b"UNSUBSCRIBE %b" % name.encode())
    pair.ok(b"SUBSCRIBE INBOX")
    paths = [rng.choices(parts, k=rng.randint(1, 4)) for _ in range(20)]
    names = sorted({"/".join(path[:end]) for path in paths for end in range(1, len(path) + 1)} | {"INBOX/a"})
    for name in names:
        pair.command(b'CREATE "%b"' % name.encode())
    for name in rng.sample(names, 10):
        pair.ok(b'SUBSCRIBE "%b"' % name.encode())
    for name in rng.sample(names, 6):
        pair.command(b'DELETE "%b"' % name.encode())
    for reference in ("", "a/", "a", "a/b/"):
        for pattern in PATTERNS:
            ask(pair, judge, f'LIST "{reference}" "{pattern}"')
            if pattern:
                ask(pair, judge, f'LSUB "{reference}" "{pattern}"')
    for options in ("(SUBSCRIBED)", "(SUBSCRIBED RECURSIVEMATCH)"):
        for pattern in filter(None, PATTERNS):
            ask(pair, judge, f'LIST {options} "" "{pattern}"')
    ask(pair, judge, 'LIST "" (INBOX a/% "*b") RETURN (SUBSCRIBED CHILDREN)')
    ask(pair, judge, 'LIST "" * RETURN (SUBSCRIBED CHILDREN)')
    judge.verdict()


def ask(pair: Pair, judge: Judge, question: str) -> None:
    ours, theirs = pair.ok(question.encode())
    kind = question.split()[0].encode()
    judge.compare(question, listed(ours, kind), listed(theirs, kind))


# --- annotations ----------------------------------------------------------------------------------

ANNOTATIONS = (
    b'SETMETADATA INBOX (/private/comment "one" /shared/vendor/x/a "")',
    b'SETMETADATA box (/private/a "1" /private/a/b "22" /private/a/b/c "333" /private/z NIL)',
    b"GETMETADATA INBOX /private/comment",
    b"GETMETADATA INBOX (/private/comment /shared/vendor/x/a /private/none)",
    b"GETMETADATA INBOX /private/none",
    b"GETMETADATA none /private/comment",
    b'SETMETADATA none (/private/comment "x")',
    b"GETMETADATA (DEPTH 1) box /private/a",
    b"GETMETADATA (DEPTH infinity) box /private/a",
    b"GETMETADATA (DEPTH infinity) box (/private/a /shared/none)",
    b"GETMETADATA (MAXSIZE 2) box (/private/a /private/a/b /private/a/b/c)",
    b"GETMETADATA (MAXSIZE 1 DEPTH infinity) box /private/a",
    b"GETMETADATA (DEPTH 2) box /private/a",
    b"GETMETADATA (OTHER 1) box /private/a",
    b"GETMETADATA box",
    b"GETMETADATA box (/private/a",
    b"GETMETADATA box comment",
    b"GETMETADATA box /private//a",
    b"GETMETADATA box /private/a/",
    b'GETMETADATA box "/private/*"',
    b"SETMETADATA box (/private/a)",
    b"SETMETADATA box ()",
    b'SETMETADATA box (/other/a "x")',
    b"SETMETADATA box (/private/a NIL /private/a/b NIL)",
    b"GETMETADATA (DEPTH infinity) box /private/a",
    b'SETMETADATA "" (/private/comment "of the server")',
    b'GETMETADATA "" /private/comment',
    b"RENAME box renamed",
    b"GETMETADATA renamed /private/a/b/c",
    b"DELETE renamed",
    b"CREATE renamed",
    b"GETMETADATA renamed /private/a/b/c",
)


def test_metadata(connect: Connect) -> None:
    pair, judge = connect(), Judge("metadata")
    pair.ok(b"CREATE box")
    for command in ANNOTATIONS:
        ours, theirs = pair.command(command)
        where = command.decode()
        judge.compare(f"{where}: status", ours.status, theirs.status)
        judge.compare(f"{where}: code", _metadata_code(ours), _metadata_code(theirs))
        judge.compare(f"{where}: values", annotations(ours), annotations(theirs))
    for literal in (b"line\r\nline", b"\xc3\xa4", b"x" * 3000):
        pair.ok(b"SETMETADATA INBOX (/private/v {%d+}\r\n%b)" % (len(literal), literal))
        ours, theirs = pair.ok(b"GETMETADATA INBOX /private/v")
        judge.compare(f"{literal[:20]!r}", annotations(ours), annotations(theirs))
    judge.verdict()


def _metadata_code(reply: Reply) -> bytes:
    return reply.code if reply.code.startswith(b"METADATA") else b""


def annotations(reply: Reply) -> dict[bytes, dict[bytes, Any]]:
    """By mailbox and entry."""
    found: dict[bytes, dict[bytes, Any]] = {}
    for _, mailbox, items in reply.data(b"METADATA"):
        names = [bytes(name).lower() for name in items[::2]]
        found.setdefault(bytes(mailbox), {}).update(zip(names, items[1::2], strict=True))
    return found


# --- POP3 -----------------------------------------------------------------------------------------


def test_pop3(connect: Connect, node: NodeProcess, oracle: Dovecot, account: str) -> None:
    pair = connect()
    mail = {name: m for name, m in corpus(15).items() if name != "nul bytes"}
    for message in mail.values():
        pair.append(b"INBOX", message)
    clients = [poplib.POP3("127.0.0.1", node.port("pop3")), poplib.POP3("127.0.0.1", oracle.pop3)]
    for client in clients:
        client.user(account)
        client.pass_(PASSWORD)
    assert clients[0].stat() == clients[1].stat()
    assert clients[0].list()[1] == clients[1].list()[1]
    unique = {line.split()[1] for line in clients[0].uidl()[1]}
    assert len(unique) == len(mail)
    for number, name in enumerate(mail, start=1):
        if (
            len(mail[name]) < 100_000 and max(map(len, mail[name].split(b"\r\n"))) < 1_900
        ):  # poplib's own limit
            assert clients[0].retr(number)[1] == clients[1].retr(number)[1], name
            for lines in (0, 1, 3, 10_000):
                tops = [client.top(number, lines)[1] for client in clients]
                assert tops[0] == tops[1], (name, lines)
    for command in (
        "RETR 0",
        "RETR 100000",
        "TOP 1",
        "TOP 1 x",
        "LIST 0",
        "DELE 100000",
        "FOO",
        "USER x",
        "RETR",
    ):
        assert [refused(client, command) for client in clients] == ["-ERR", "-ERR"], command
    for client in clients:
        client.dele(1)
        client.dele(3)
        assert refused(client, "RETR 1") == "-ERR"
    assert clients[0].stat() == clients[1].stat()
    for client in clients:
        client.quit()
    boxes = [contents(server, b"INBOX") for server in (pair.ours, pair.theirs)]
    assert boxes[0].keys() == boxes[1].keys()


def refused(client: poplib.POP3, command: str) -> str:
    try:
        return client._shortcmd(command).decode().split()[0]  # type: ignore[attr-defined, no-any-return]
    except poplib.error_proto as error:
        return str(error.args[0].decode().split()[0])


def test_atoms_are_not_strings() -> None:
    assert Atom(b"NIL") == b"NIL"
    assert type(Atom(b"NIL")) is not bytes
