"""imapsieve as a user has it: sieve-connect puts the script, imaplib names it, and mail is moved about."""

from __future__ import annotations

import imaplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.livenode import client_context
from tests.support.nodeprocess import NodeProcess
from tests.support.sieveconnect import SieveConnect
from tests.support.waiting import settled

from .conftest import PASSWORD, deliver, needs

SCRIPT = r"""
require ["imapsieve", "environment", "imap4flags", "fileinto", "copy", "mailbox", "variables"];
if environment :matches "imap.cause" "*" { set "cause" "${1}"; }
if environment :matches "imap.mailbox" "*" { set "box" "${1}"; }
if anyof (environment :is "imap.cause" "APPEND", environment :is "imap.cause" "COPY") {
  addflag "${cause}-${box}";
}
if allof (environment :contains "imap.changedflags" "\\Flagged", hasflag "\\Flagged") {
  fileinto :copy :create "Important";
}
"""
MESSAGE = b"From: a@far.example\r\nSubject: hello\r\n\r\nbody\r\n"


@pytest.fixture
def client(node: NodeProcess, account: str) -> Iterator[imaplib.IMAP4_SSL]:
    imaplib.Commands |= {"GETMETADATA": ("AUTH", "SELECTED"), "SETMETADATA": ("AUTH", "SELECTED")}
    with imaplib.IMAP4_SSL("localhost", node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(account, PASSWORD)
        yield client


def put_script(node: NodeProcess, account: str, path: Path) -> None:
    needs("sieve-connect")
    done = SieveConnect(node, account, PASSWORD)(
        "--upload", "--localsieve", str(path), "--remotesieve", "events"
    )
    assert done.returncode == 0, done.stderr


def flags(client: imaplib.IMAP4_SSL, mailbox: str) -> list[set[bytes]]:
    """Of all messages of a mailbox, which is selected then."""
    status, _ = client.select(mailbox)
    if status != "OK":
        return []
    _, found = client.uid("FETCH", "1:*", "(FLAGS)")
    return [set(imaplib.ParseFlags(line)) - {b"\\Recent"} for line in found if isinstance(line, bytes)]


def wait_for(look: Callable[[], object], wanted: object) -> None:
    assert settled(look, wanted) == wanted


def test_script_of_a_mailbox_runs_on_append_copy_and_flags(
    client: imaplib.IMAP4_SSL, node: NodeProcess, account: str, tmp_path: Path
) -> None:
    capabilities = client.capability()[1][0].split()
    (word,) = [each for each in capabilities if each.startswith(b"IMAPSIEVE=")]
    assert word.startswith(b"IMAPSIEVE=sieve://")
    assert word.endswith(b":%d" % node.port("managesieve"))
    path = tmp_path / "events.sieve"
    path.write_text(SCRIPT)
    put_script(node, account, path)
    assert client.create("Tasks")[0] == "OK"
    for mailbox in ("INBOX", "Tasks"):
        named = client._simple_command("SETMETADATA", mailbox, '(/shared/imapsieve/script "events")')
        assert named[0] == "OK"

    assert client.append("Tasks", None, None, MESSAGE)[0] == "OK"
    wait_for(lambda: flags(client, "Tasks"), [{b"APPEND-Tasks"}])
    deliver(node, account, [MESSAGE])  # is no event of IMAP
    wait_for(lambda: flags(client, "INBOX"), [set()])
    assert client.copy("1", "Tasks")[0] == "OK"
    wait_for(lambda: flags(client, "Tasks"), [{b"APPEND-Tasks"}, {b"COPY-Tasks"}])
    client.select("INBOX")
    assert client.store("1", "+FLAGS", "(\\Flagged)")[0] == "OK"
    wait_for(lambda: flags(client, "Important"), [{b"\\Flagged"}])
    client.select("INBOX")
    assert client.store("1", "-FLAGS", "(\\Flagged)")[0] == "OK"
    assert client.uid("MOVE", "1:*", "Tasks")[0] == "OK"
    wait_for(lambda: flags(client, "Tasks"), [{b"APPEND-Tasks"}, {b"COPY-Tasks"}, {b"COPY-Tasks"}])
    assert flags(client, "Important") == [{b"\\Flagged"}]


def test_annotations_by_imaplib(client: imaplib.IMAP4_SSL) -> None:
    assert client._simple_command("SETMETADATA", "INBOX", '(/private/comment "mine")')[0] == "OK"
    assert client._simple_command("GETMETADATA", "INBOX", "(/private/comment)")[0] == "OK"
    assert client.response("METADATA")[1] == [b'"INBOX" (/private/comment "mine")']
    status, why = client._simple_command("SETMETADATA", '""', '(/shared/admin "mailto:me@example.org")')
    assert status == "NO", why
