"""What Pigeonhole's imapsieve makes of the same scripts and commands: an independent reading of RFC 6785."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import dovecot
from tests.support.dovecot import Dovecot
from tests.support.imapraw import ImapRaw, flags_of
from tests.support.nodeprocess import NodeProcess, public_directory
from tests.support.sieveeditor import SieveEditor
from tests.support.waiting import settled

from .conftest import PASSWORD
from .differential import Pair

PLUGIN = Path("/usr/lib/dovecot/modules/lib95_imap_sieve_plugin.so")
MORE = """
protocol imap {
  mail_plugins = imap_sieve
}
plugin {
  imapsieve_url = sieve://localhost
  sieve = file:~/sieve;active=~/active.sieve
}
"""
REQUIRE = 'require ["imapsieve", "environment", "imap4flags", "fileinto", "copy", "mailbox", "variables"];\n'
MESSAGE = b"From: a@far.example\r\nSubject: hello\r\n\r\nbody\r\n"

APPEND = (b"APPEND box (work) {%d+}\r\n%b" % (len(MESSAGE), MESSAGE),)
COPY = (b"SELECT src", b"COPY 1 box")
FLAG = (b"SELECT box", b"STORE 1 +FLAGS (\\Flagged new)", b"STORE 1 -FLAGS (work)")
READ = (b"SELECT box", b"FETCH 1 BODY[]", b"FETCH 1 BODY.PEEK[]")

SCRIPTS = {
    "nothing": "",
    "keep": "keep;",
    "discard": "discard;",
    "discard and keep": "discard; keep;",
    "a flag": 'addflag "script";',
    "other flags": 'setflag ["script", "\\\\Answered"];',
    "a flag less": 'removeflag "work";',
    "keep with flags": 'keep :flags ["work", "script"];',
    "file": 'fileinto "Archive";',
    "file a copy": 'fileinto :copy "Archive";',
    "file and keep": 'fileinto "Archive"; keep;',
    "file with flags": 'fileinto :copy :flags "script" "Archive";',
    "file and make": 'fileinto :copy :create "Made";',
    "by flag": 'if hasflag "\\\\Flagged" { addflag "was-flagged"; }',
    "by cause": 'if environment :matches "imap.cause" "*" { addflag "cause-${1}"; }',
    "by mailbox": 'if environment "imap.mailbox" "box" { addflag "right"; } else { addflag "wrong"; }',
    "by changed flags": 'if environment :contains "imap.changedflags" "\\\\Flagged" { addflag "told"; }',
    "by changed keyword": 'if environment :contains "imap.changedflags" "work" { addflag "told"; }',
    "by place": 'if allof (environment "location" "MS", environment "phase" "post") { addflag "there"; }',
    "refusal": 'require "reject"; addflag "script"; reject "no";',
    "envelope": 'require "envelope"; addflag "script"; if envelope "from" "x" { keep; }',
}


@pytest.fixture(scope="module")
def oracle(node: NodeProcess) -> Iterator[Dovecot]:
    if not dovecot.is_installed() or not PLUGIN.exists():
        pytest.skip("Dovecot with Pigeonhole is not installed, or this is not root; .ci/run installs it")
    directory = public_directory("sora-event-oracle-")
    running = Dovecot.start(directory, node.certificate, node.certificate.parent / "key.pem", more=MORE)
    yield running
    running.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def pair(node: NodeProcess, oracle: Dovecot, account: str) -> Iterator[Pair]:
    both = Pair(
        ImapRaw(node.port("imap"), account, PASSWORD), ImapRaw(oracle.imap, account, dovecot.PASSWORD)
    )
    for name in (b"Archive", b"src"):
        both.command(b"CREATE %b" % name)
    both.append(b"src", MESSAGE, b"(work) ")
    yield both
    both.close()


def put_all(node: NodeProcess, oracle: Dovecot, account: str) -> None:
    """All scripts to both, by number."""
    home = oracle.directory / "home" / account
    (home / "sieve").mkdir(parents=True, exist_ok=True)
    editor = SieveEditor(node, account, PASSWORD)
    for number, script in enumerate(SCRIPTS.values()):
        text = (REQUIRE + script).encode()
        (home / "sieve" / f"s{number}.sieve").write_bytes(text)
        said, _ = editor.ask(b'PUTSCRIPT "s%d" {%d+}\r\n%b\r\n' % (number, len(text), text))
        assert said.startswith(b"OK"), (script, said)
    editor.close()
    for path in (home, *home.rglob("*")):
        shutil.chown(path, "nobody", "nogroup")


def state(client: ImapRaw) -> dict[str, list[set[bytes]]]:
    """Flags of all messages in each mailbox, in order."""
    found = {}
    for name in (b"box", b"Archive", b"Made"):
        if client.command(b"EXAMINE %b" % name).status == "OK":
            rows = client.command(b"FETCH 1:* (FLAGS)").fetched()
            found[name.decode()] = [set(flags_of(rows[number][b"FLAGS"])) for number in sorted(rows)]
    client.command(b"UNSELECT")
    return found


@pytest.mark.parametrize("commands", [APPEND, COPY, FLAG, READ], ids=["append", "copy", "flag", "read"])
def test_scripts_end_alike(
    pair: Pair, node: NodeProcess, oracle: Dovecot, account: str, commands: tuple[bytes, ...]
) -> None:
    problems, used = [], 0
    put_all(node, oracle, account)
    for number, title in enumerate(SCRIPTS):
        for box in (b"box", b"Archive", b"Made"):
            pair.command(b"DELETE %b" % box)
        pair.ok(b"CREATE box")
        pair.ok(b"CREATE Archive")
        if commands in (FLAG, READ):
            pair.append(b"box", MESSAGE, b"(work) ")
        pair.ok(b'SETMETADATA box (/shared/imapsieve/script "s%d")' % number)
        for command in commands:
            pair.ok(command)
        pair.command(b"UNSELECT")
        theirs = state(pair.theirs)
        ours = settled(lambda: alike(state(pair.ours), commands), alike(theirs, commands))
        used += any(b"script" in flags for flags in theirs["box"])
        if ours != alike(theirs, commands):
            problems.append(f"{title}\n    ours   {ours}\n    theirs {theirs}")
    assert used  # scripts ran there
    assert not problems, "\n".join(problems)


def alike(found: dict[str, list[set[bytes]]], commands: tuple[bytes, ...]) -> dict[str, list[set[bytes]]]:
    """Pigeonhole sets no \\Deleted because of flags; RFC 6785 §3.3 and §3.5 do."""
    if commands not in (FLAG, READ):
        return found
    return {name: [flags - {b"\\deleted"} for flags in rows] for name, rows in found.items()}
