"""Sieve on a whole node: scripts put in by sora-admin, mail by LMTP, looked at by an IMAP client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

from imapclient import IMAPClient

from tests.support.livenode import client_context
from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.sieveeditor import SieveEditor

from .conftest import PASSWORD

SCRIPT = """
require ["fileinto", "mailbox", "imap4flags", "copy", "variables", "envelope", "subaddress", "ereject",
         "body", "duplicate", "include"];
include :optional "more";
if duplicate { discard; stop; }
if header :contains "subject" "forbidden" { ereject "Nothing of that kind"; stop; }
if envelope :matches :detail "to" "*" { set :lower "box" "${1}"; fileinto :create "Plus/${box}"; stop; }
if body :text :contains "invoice" { addflag ["\\\\Flagged", "money"]; fileinto :copy "Archive"; }
if header :is "x-spam-flag" "YES" { fileinto "Junk"; redirect "lost@example.net"; }
if header :is "subject" "sent on" { redirect "lost@example.net"; }
"""


def put(node: NodeProcess, address: str, name: str, script: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "node.admin", "--config", str(node.config)),
            *("sieve", "put", address, name),
        ],
        cwd=ROOT,
        input=script.encode(),
        check=True,
        capture_output=True,
    )


def message(subject: str, number: int, body: str = "text", more: str = "") -> bytes:
    head = f"From: far@example.net\r\nSubject: {subject}\r\nMessage-ID: <{number}@example.net>\r\n{more}"
    return f"{head}\r\n{body}\r\n".encode()


def send(node: NodeProcess, letters: Sequence[tuple[str, bytes]]) -> list[tuple[int, str]]:
    async def run() -> list[tuple[int, str]]:
        client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
        replies = [(await client.deliver(content, [address]))[0] for address, content in letters]
        await client.close()
        return replies

    return asyncio.run(run())


def subjects(client: IMAPClient, mailbox: str) -> dict[str, set[str]]:
    """With their flags."""
    client.select_folder(mailbox, readonly=True)
    fetched = client.fetch(client.search(), ["ENVELOPE", "FLAGS"])
    return {
        data[b"ENVELOPE"].subject.decode(): {flag.decode() for flag in data[b"FLAGS"]} - {"\\Recent"}
        for data in fetched.values()
    }


def test_mail_goes_where_the_script_says(node: NodeProcess, account: str) -> None:
    put(node, account, "main", SCRIPT)
    node.admin("sieve", "activate", account, "main")
    user, _, domain = account.partition("@")
    replies = send(
        node,
        [
            (account, message("plain", 1)),
            (account, message("again", 1)),
            (account, message("forbidden fruit", 2)),
            (f"{user}+Lists@{domain}", message("to a detail", 3)),
            (account, message("money", 4, "your invoice")),
            (account, message("spam", 5, more="X-Spam-Flag: YES\r\n")),
            (account, message("sent on", 6)),
        ],
    )
    assert [code for code, _ in replies] == [250, 250, 550, 250, 250, 250, 250]
    assert replies[2][1] == "550 5.7.1 Nothing of that kind"
    with IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(account, PASSWORD)
        assert subjects(client, "INBOX") == {
            "plain": set(),
            "money": {"\\Flagged", "money"},
            "sent on": set(),  # redirects are kept as long as nothing can be sent
        }
        assert subjects(client, "Archive") == {"money": {"\\Flagged", "money"}}
        assert subjects(client, "Junk") == {"spam": set()}
        assert subjects(client, "Plus/lists") == {"to a detail": set()}
        assert any(name == "Plus/lists" for _, _, name in client.list_sub_folders())


def test_mail_of_a_broken_script_is_kept(node: NodeProcess, account: str) -> None:
    node.admin("sieve", "put", account, "broken", __file__, "--force")
    node.admin("sieve", "activate", account, "broken")
    assert send(node, [(account, message("kept", 1))])[0][0] == 250
    with IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(account, PASSWORD)
        assert subjects(client, "INBOX") == {"kept": set(), "Your mail filter does not work": set()}


def test_a_changed_script_acts_on_the_next_message(node: NodeProcess, account: str) -> None:
    """Recipients are remembered with their scripts; a change in the same process ends that before its OK."""

    def outcome(number: int) -> int:
        ((code, _text),) = send(node, [(account, message("x", number))])
        return code

    assert outcome(1) == 250
    editor = SieveEditor(node, account, PASSWORD)
    try:
        refusing = b'require "ereject"; ereject "no";'
        assert editor.ask(b'PUTSCRIPT "a" {%d+}\r\n%b\r\n' % (len(refusing), refusing))[0].startswith(b"OK")
        assert editor.ask(b'SETACTIVE "a"\r\n')[0].startswith(b"OK")
        assert outcome(2) == 550
        assert editor.ask(b'PUTSCRIPT "a" {5+}\r\nkeep;\r\n')[0].startswith(b"OK")
        assert outcome(3) == 250
        assert editor.ask(b'PUTSCRIPT "a" {%d+}\r\n%b\r\n' % (len(refusing), refusing))[0].startswith(b"OK")
        assert editor.ask(b'SETACTIVE ""\r\n')[0].startswith(b"OK")
        assert outcome(4) == 250
    finally:
        editor.close()
