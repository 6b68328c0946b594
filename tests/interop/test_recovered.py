"""Deleted mail comes back by real clients, and none of them downloads it by itself."""

from __future__ import annotations

import imaplib
import json
import re
import time
from pathlib import Path
from typing import Any

from imapclient import IMAPClient

from tests.support.corpus import messages
from tests.support.livenode import client_context
from tests.support.nodeprocess import NodeProcess

from .conftest import PASSWORD, deliver, needs
from .test_clients import imap_client, maildir, mbsync_config, normal, received, run

PATIENCE_S = 60.0


def delete_all(node: NodeProcess, account: str, count: int, name: str = "INBOX") -> None:
    with imap_client(node, account) as client:
        client.select_folder(name)
        assert len(client.search()) == count
        client.delete_messages(client.search())
        client.expunge()
        assert client.search() == []


def days_of(client: IMAPClient) -> list[str]:
    """One, or two around midnight."""
    return sorted(str(name) for *_, name in client.list_folders("", "Recovered/%"))


def test_imapclient_copies_everything_back(node: NodeProcess, account: str) -> None:
    sent = list(messages(11, 30, to=account))
    deliver(node, account, sent)
    delete_all(node, account, 30)
    with imap_client(node, account) as client:
        assert [space[0] for space in client.namespace().personal] == ["", "Recovered/"]
        assert not [name for *_, name in client.list_folders() if name.startswith("Recovered")]
        before: dict[tuple[str, int], dict[bytes, Any]] = {}
        for day in days_of(client):
            client.select_folder(day, readonly=True)  # imaplib takes a SELECT that is read-only for a failure
            found = client.fetch(client.search(), ["INTERNALDATE", "BODY.PEEK[]"])
            before |= {(day, uid): entry for uid, entry in found.items()}
            client.copy(client.search(), "INBOX")
        assert len(before) == 30
        client.select_folder("INBOX")
        after = client.fetch(client.search(), ["INTERNALDATE", "BODY.PEEK[]", "FLAGS"])
    bodies = [entry[b"BODY[]"] for entry in after.values()]
    assert sorted(bodies) == sorted(entry[b"BODY[]"] for entry in before.values())
    assert received(bodies) == sorted(sent)
    dates = [entry[b"INTERNALDATE"] for entry in after.values()]
    assert sorted(dates) == sorted(entry[b"INTERNALDATE"] for entry in before.values())
    assert not any(b"\\Deleted" in entry[b"FLAGS"] for entry in after.values())


def test_imaplib_is_refused_what_would_change_it(node: NodeProcess, account: str) -> None:
    deliver(node, account, list(messages(12, 2, to=account)))
    delete_all(node, account, 2)
    with imap_client(node, account) as other:
        day = days_of(other)[-1]
    with imaplib.IMAP4_SSL("localhost", node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(account, PASSWORD)
        assert client.append(day, "", "", b"Subject: no\r\n\r\n")[0] == "NO"
        assert client.create("Recovered/mine")[0] == "NO"
        assert client.delete(day)[0] == "NO"
        client.select(day, readonly=True)
        for answer in (client.store("1", "+FLAGS", "\\Seen"), client.expunge()):
            assert answer[0] == "NO"
            assert b"[NOPERM]" in answer[1][0]


def test_mbsync_leaves_it_alone_unless_it_is_pointed_there(
    node: NodeProcess, account: str, tmp_path: Path
) -> None:
    needs("mbsync")
    sent = list(messages(13, 25, to=account))
    deliver(node, account, sent)
    delete_all(node, account, 25)
    config = mbsync_config(node, account, tmp_path)
    run(["mbsync", "-c", str(config), "all"])
    assert maildir(tmp_path / "mail/INBOX") == []
    assert not list((tmp_path / "mail").glob("Recovered*"))
    assert run_pulling(node, account, config) == sorted(map(normal, sent))
    assert len(run_pulling(node, account, config)) == 25  # uids are what they were


def run_pulling(node: NodeProcess, account: str, config: Path) -> list[bytes]:
    """All of the namespace, without trace headers."""
    directory = config.parent / "pulled"
    directory.mkdir(exist_ok=True)
    words = mbsync_config(node, account, directory).read_text()
    for old, new in (
        ("\nSSLType", "\nPath Recovered/\nSSLType"),
        ("Patterns *", "Patterns * !INBOX\nSync Pull"),
        ("Create Both", "Create Near"),
        ("Expunge Both", "Expunge None"),
    ):
        words = words.replace(old, new)
    (directory / "mbsyncrc").write_text(words)
    run(["mbsync", "-c", str(directory / "mbsyncrc"), "all"])
    days = [each for each in (directory / "mail").iterdir() if re.fullmatch(r"\d{4}-\d\d-\d\d", each.name)]
    return received(message for day in days for message in maildir(day))


def test_curl_reads_and_copies(node: NodeProcess, account: str) -> None:
    needs("curl")
    sent = list(messages(14, 1, to=account))
    deliver(node, account, sent)
    delete_all(node, account, 1)
    with imap_client(node, account) as client:
        (day,) = days_of(client)
    common = [
        "curl",
        "--silent",
        "--show-error",
        "--cacert",
        str(node.certificate),
        "-u",
        f"{account}:{PASSWORD}",
    ]
    url = f"imaps://localhost:{node.port('imaps')}/{day}"
    read = run([*common, f"{url};UID=1"]).stdout
    assert received([read]) == sent
    run([*common, url, "-X", "UID COPY 1 INBOX"])
    assert received([run([*common, f"imaps://localhost:{node.port('imaps')}/INBOX;UID=2"]).stdout]) == sent


def test_an_administrator_s_restore_is_heard_at_once(node: NodeProcess, account: str) -> None:
    """Well before the safety net, which looks every 15 s."""
    deliver(node, account, list(messages(15, 3, to=account)))
    delete_all(node, account, 3)
    listed = json.loads(node.admin("messages", "deleted", account, "--json"))
    assert [each["uid"] for each in listed] == [3, 2, 1]
    with imap_client(node, account) as client:
        client.select_folder("INBOX")
        client.idle()
        node.admin("messages", "restore", account, "--mailbox", "INBOX", "--uid", "1:2")
        heard = client.idle_check(timeout=PATIENCE_S)
        client.idle_done()
        assert (2, b"EXISTS") in heard
    node.admin("messages", "restore", account, "--all")
    with imap_client(node, account) as client:
        client.select_folder("INBOX")
        assert len(client.search()) == 3
        assert client.list_folders("", "Recovered/%") == []


def test_an_audit_of_a_running_node_finds_nothing(node: NodeProcess, account: str) -> None:
    deliver(node, account, list(messages(16, 40, to=account)))
    delete_all(node, account, 40)
    deliver(node, account, list(messages(17, 40, to=account)))
    deadline = time.monotonic() + PATIENCE_S
    found = json.loads(node.admin("verify", "--deep", "--json", check=False))
    while found["findings"] and time.monotonic() < deadline:
        found = json.loads(node.admin("verify", "--deep", "--json", check=False))
    assert found["findings"] == []
    assert found["seen"]["contents"] >= 80
