"""mbsync, curl, swaks, fetchmail, mutt and IMAPClient live on a node."""

from __future__ import annotations

import imaplib
import mailbox
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from imapclient import IMAPClient

from tests.support.corpus import hostile, messages, strip_trace
from tests.support.livenode import client_context
from tests.support.nodeprocess import NodeProcess

from .conftest import PASSWORD, deliver, needs

CLIENT_TIMEOUT_S = 300


def run(command: list[str], **more: object) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, capture_output=True, timeout=CLIENT_TIMEOUT_S, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done  # type: ignore[no-any-return]


def normal(message: bytes) -> bytes:
    """Line ends as Maildir has them; clients that store files change nothing else."""
    return message.replace(b"\r\n", b"\n")


def received(messages_found: Iterable[bytes]) -> list[bytes]:
    """Without our trace headers, sorted: what the sender handed over."""
    return sorted(strip_trace(message) for message in messages_found)


def imap_client(node: NodeProcess, account: str) -> IMAPClient:
    client = IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node))
    client.login(account, PASSWORD)
    return client


def mbsync_config(node: NodeProcess, account: str, directory: Path) -> Path:
    config = directory / "mbsyncrc"
    config.write_text(
        f"""
IMAPStore sora
Host localhost
Port {node.port("imaps")}
User {account}
Pass {PASSWORD}
SSLType IMAPS
CertificateFile {node.certificate}

MaildirStore local
Path {directory}/mail/
Inbox {directory}/mail/INBOX
SubFolders Verbatim

Channel all
Far :sora:
Near :local:
Patterns *
Create Both
Expunge Both
SyncState *
"""
    )
    (directory / "mail").mkdir(exist_ok=True)
    return config


def maildir(directory: Path) -> list[bytes]:
    """All messages, without the header that mbsync adds."""
    found = [path.read_bytes() for part in ("cur", "new") for path in (directory / part).iterdir()]
    return [re.sub(rb"(?m)^X-TUID: .*\n", b"", message, count=1) for message in found]


def test_mbsync_gets_every_byte_of_a_few_thousand_messages(
    node: NodeProcess, account: str, tmp_path: Path
) -> None:
    needs("mbsync")
    sent = list(messages(2026, int(os.environ.get("SORA_INTEROP_MESSAGES", "2000")), to=account))
    deliver(node, account, sent)
    config = mbsync_config(node, account, tmp_path)
    run(["mbsync", "-c", str(config), "all"])
    assert received(maildir(tmp_path / "mail/INBOX")) == sorted(normal(message) for message in sent)
    node.wait_until_uploaded()
    objects = Path(node.ready["config"]).parent / "objects/sora-mail/bodies"
    assert sum(1 for _ in objects.glob("??/*")) >= len(sent)


def test_mbsync_carries_changes_both_ways(node: NodeProcess, account: str, tmp_path: Path) -> None:
    needs("mbsync")
    sent = list(messages(7, 20, to=account))
    deliver(node, account, sent)
    config = mbsync_config(node, account, tmp_path)
    run(["mbsync", "-c", str(config), "all"])
    local = mailbox.Maildir(tmp_path / "mail/INBOX")
    victim, seen, *_ = sorted(local.keys())
    local.remove(victim)
    flagged = local[seen]
    flagged.set_flags("FS")  # type: ignore[attr-defined]
    local[seen] = flagged
    draft = mailbox.MaildirMessage(b"Subject: from the client\n\nuploaded\n")
    local.add(draft)
    run(["mbsync", "-c", str(config), "all"])
    run(["mbsync", "-c", str(config), "all"])
    with imap_client(node, account) as client:
        client.select_folder("INBOX")
        assert len(client.search("ALL")) == 20
        assert len(client.search("FLAGGED SEEN")) == 1
        assert len(client.search(["SUBJECT", "from the client"])) == 1


@pytest.mark.parametrize("name", sorted(hostile()))
def test_hostile_mail_is_returned_verbatim(node: NodeProcess, account: str, name: str) -> None:
    message = hostile()[name]
    deliver(node, account, [message])
    with imap_client(node, account) as client:
        client.select_folder("INBOX", readonly=True)
        (entry,) = client.fetch(client.search(), ["BODY.PEEK[]", "RFC822.SIZE"]).values()
        body, size = entry[b"BODY[]"], entry[b"RFC822.SIZE"]
    assert size == len(body)
    # DATA cannot end without a line end: LMTP gives one to a message that lacks it
    expected = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    assert strip_trace(body) == expected
    # the structure is there whatever the mail is; imaplib does not choke on it
    with imaplib.IMAP4_SSL("localhost", node.port("imaps"), ssl_context=client_context(node)) as plain:
        plain.login(account, PASSWORD)
        plain.select("INBOX", readonly=True)
        status, _ = plain.fetch("1", "(ENVELOPE BODYSTRUCTURE FLAGS INTERNALDATE)")
        assert status == "OK"


def test_curl_reads_and_writes_over_imap_imaps_and_pop3(
    node: NodeProcess, account: str, tmp_path: Path
) -> None:
    needs("curl")
    (sent,) = messages(3, 1, to=account)
    deliver(node, account, [sent])
    common = ["curl", "--silent", "--show-error", "--cacert", str(node.certificate)]
    common += ["--user", f"{account}:{PASSWORD}"]
    imap, imaps = node.port("imap"), node.port("imaps")
    fetched = [
        run([*common, f"imaps://localhost:{imaps}/INBOX;UID=1"]).stdout,
        run([*common, "--ssl-reqd", f"imap://localhost:{imap}/INBOX;UID=1"]).stdout,
        run([*common, f"pop3s://localhost:{node.port('pop3s')}/1"]).stdout,
        run([*common, "--ssl-reqd", f"pop3://localhost:{node.port('pop3')}/1"]).stdout,
    ]
    assert [strip_trace(each) for each in fetched] == [sent] * 4
    upload = tmp_path / "upload.eml"
    upload.write_bytes(b"Subject: by curl\r\n\r\nhello\r\n")
    run([*common, "-T", str(upload), f"imaps://localhost:{imaps}/Drafts"])
    found = run([*common, f"imaps://localhost:{imaps}/Drafts", "-X", "SEARCH SUBJECT curl"])
    assert found.stdout.strip() == b"* SEARCH 1"
    assert run([*common, f"imaps://localhost:{imaps}/Drafts;UID=1"]).stdout == upload.read_bytes()


def test_swaks_delivers_over_lmtp_with_and_without_tls(node: NodeProcess, account: str) -> None:
    needs("swaks")
    base = ["swaks", "--protocol", "LMTP", "--server", "127.0.0.1", "--port", str(node.port("lmtp"))]
    base += ["--from", "a@example.test", "--header", "Subject: swaks", "--to"]
    run([*base, account, "--body", "plain"])
    run([*base, account, "--body", "secret", "--tls"])
    user, _, domain = account.partition("@")
    run([*base, f"{user}+detail@{domain}", "--body", "detail"])
    refused = subprocess.run(
        [*base, f"nobody@{domain}"], capture_output=True, timeout=CLIENT_TIMEOUT_S, check=False
    )
    assert b"550 5.1.1" in refused.stdout
    with imap_client(node, account) as client:
        client.select_folder("INBOX")
        assert len(client.search(["SUBJECT", "swaks"])) == 3


def test_fetchmail_drains_the_maildrop(node: NodeProcess, account: str, tmp_path: Path) -> None:
    needs("fetchmail")
    sent = list(messages(11, 30, to=account))
    deliver(node, account, sent)
    folder = tmp_path / "got"
    folder.mkdir()
    script = tmp_path / "mda"
    script.write_text(f"#!/bin/sh\ncat > $(mktemp {folder}/XXXXXXXX)\n")
    script.chmod(0o755)
    config = tmp_path / "fetchmailrc"
    config.write_text(
        f'poll localhost protocol POP3 service {node.port("pop3s")} username "{account}" '
        f'password "{PASSWORD}" ssl sslcertck sslcertfile "{node.certificate}" mda "{script}" nokeep\n'
    )
    config.chmod(0o600)
    environment = {**os.environ, "FETCHMAILHOME": str(tmp_path), "HOME": str(tmp_path)}
    run(["fetchmail", "--invisible", "-f", str(config)], env=environment)
    # fetchmail rewrites line ends and may touch headers of its own accord; bodies and ids must be whole
    ids = sorted(
        re.findall(rb"(?mi)^Message-ID: (<[^i].*>)", b"\n".join(p.read_bytes() for p in folder.iterdir()))
    )
    assert ids == sorted(re.findall(rb"(?m)^Message-ID: (<[^i].*>)\r$", b"\n".join(sent)))
    with imap_client(node, account) as client:
        assert client.select_folder("INBOX")[b"EXISTS"] == 0


def test_mutt_saves_and_deletes(node: NodeProcess, account: str, tmp_path: Path) -> None:
    mutt = needs("mutt")
    sent = list(messages(13, 5, to=account))
    deliver(node, account, sent)
    config = tmp_path / "muttrc"
    config.write_text(
        f"""
set ssl_starttls=yes ssl_force_tls=yes certificate_file="{node.certificate}"
set imap_user="{account}" imap_pass="{PASSWORD}" folder="imaps://localhost:{node.port("imaps")}"
set mbox_type=Maildir delete=yes confirmappend=no confirmcreate=no move=no quit=yes wait_key=no
set header_cache="" tmpdir="{tmp_path}" sleep_time=0 record="" postponed=""
"""
    )
    keys = f"push '<tag-pattern>~A<enter><tag-prefix><save-message><kill-line>{tmp_path}/saved<enter><quit>'"
    url = f"imaps://localhost:{node.port('imaps')}/INBOX"
    in_terminal([mutt, "-n", "-F", str(config), "-f", url, "-e", keys], tmp_path)
    saved = [bytes(message) for message in mailbox.Maildir(tmp_path / "saved")]
    assert len(saved) == 5
    with imap_client(node, account) as client:
        assert client.select_folder("INBOX")[b"EXISTS"] == 0


def in_terminal(command: list[str], home: Path) -> None:
    """Run a full-screen program to its end, reading what it paints."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", HOME=str(home), LINES="24", COLUMNS="80")
        os.execv(command[0], command)
    painted = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                painted += os.read(terminal, 65536)
            except OSError:
                break
        elif os.waitpid(pid, os.WNOHANG)[0]:
            os.close(terminal)
            return
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        pytest.fail(f"{command[0]} did not end; last painted: {painted[-2000:]!r}")
    os.waitpid(pid, 0)
    os.close(terminal)


def test_imapclient_lives_a_day(node: NodeProcess, account: str) -> None:
    sent = list(messages(17, 12, to=account))
    with imap_client(node, account) as client:
        assert b"IDLE" in client.capabilities()
        assert {flag for flags, _, _ in client.list_folders() for flag in flags} >= {b"\\Sent", b"\\Trash"}
        client.select_folder("INBOX")
        client.idle()
        deliver(node, account, sent)
        heard: list[object] = []
        while not any(isinstance(each, tuple) and each == (12, b"EXISTS") for each in heard):
            got = client.idle_check(timeout=60)
            assert got, heard
            heard += got
        client.idle_done()
        assert client.fetch(client.search(), "BODY.PEEK[]") == client.fetch(client.search(), "BODY.PEEK[]")
        client.add_flags([1, 2], [rb"\Flagged", b"$Important"])
        assert client.search("FLAGGED KEYWORD $Important") == [1, 2]
        client.create_folder("Projekte/Größe")
        client.copy([1], "Projekte/Größe")
        client.move([2], "Projekte/Größe")
        assert client.search("ALL") == [1, *range(3, 13)]
        assert client.folder_status("Projekte/Größe", "MESSAGES") == {b"MESSAGES": 2}
        client.rename_folder("Projekte/Größe", "Projekte/Klein")
        client.delete_messages([1, 3])
        client.expunge()
        assert client.search("ALL") == list(range(4, 13))
        uid = client.append("Sent", sent[0], [rb"\Seen"])
        assert b"APPENDUID" in uid
        client.select_folder("Sent")
        assert client.fetch([1], "BODY[]")[1][b"BODY[]"] == sent[0]
        client.delete_folder("Projekte/Klein")
        assert not client.folder_exists("Projekte/Klein")
