"""What becomes of mail whose node is lost right after its 250, and while S3 is away for all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.support.corpus import strip_trace
from tests.support.lineclient import LineClient
from tests.support.livenode import message

from . import namespaces
from .lab import ACCOUNT, ADDRESSES, NODES, Lab, until
from .mail import PATIENCE_S, imap

LMTP_PORT = 24
DRAINED_S = 90.0  # a hanging request ends, a probe is due, the backlog follows


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    with Lab(edit=edit) as lab:
        for name in NODES:
            lab.start(name)
        yield lab


def edit(_name: str, text: str) -> str:
    """Requests that hang are given up soon."""
    return text.replace("[s3]\n", '[s3]\ntimeout = "3s"\nretries = 1\n')


def deliver(lab: Lab, node: str, *mails: bytes) -> list[bytes]:
    """Over one connection; the replies."""
    with lab.at("client"):
        client = LineClient(LMTP_PORT, host=ADDRESSES[node])
    replies = []
    with client:
        client.lmtp_reply()
        assert client.lmtp(b"LHLO client.lab.example").startswith(b"250")
        for mail in mails:
            assert client.lmtp(b"MAIL FROM:<sender@lab.example>").startswith(b"250")
            assert client.lmtp(b"RCPT TO:<%s>" % ACCOUNT.encode()).startswith(b"250")
            assert client.lmtp(b"DATA").startswith(b"354")
            client.send(mail + b".\r\n")
            replies.append(client.lmtp_reply())
    return replies


def read_all(lab: Lab, node: str) -> list[bytes]:
    """Whole messages without trace headers, as delivered; fails when one cannot be had."""
    with imap(lab, node) as client:
        client.login(ACCOUNT, lab.password)
        client.select("INBOX", readonly=True)
        status, found = client.uid("FETCH", "1:*", "(BODY.PEEK[])")
        assert status == "OK", found
        return [strip_trace(each[1]) for each in found if isinstance(each, tuple)]


def staged(lab: Lab, node: str) -> int:
    return int(lab.status(node)["staging"]["staged"])


def test_the_disk_of_a_node_is_wiped_right_after_250(lab: Lab) -> None:
    """Its bodies cannot have been uploaded: S3 is out of reach for it, and then for everybody."""
    lab.part(NODES, ["s3"])
    mails = [message(1, 700), message(2, 30_000), message(3, 3_000_000)]
    replies = deliver(lab, "node-1", *mails)
    lab.kill("node-1")  # at once: the last reply has just been read
    shutil.rmtree(lab.directory / "node-1" / "data")
    assert all(reply.startswith(b"250") for reply in replies), replies
    for survivor in ("node-2", "node-3"):
        assert read_all(lab, survivor) == mails  # from the database: S3 is still away
    lab.heal()
    took = until("the backlog is uploaded by the others", lambda: staged(lab, "node-2") == 0, DRAINED_S)
    print(f"uploaded by the survivors {took:.1f} s after S3 was back")
    for survivor in ("node-2", "node-3"):
        assert read_all(lab, survivor) == mails
    (lab.directory / "node-1" / "data").mkdir(mode=0o700)
    lab.start("node-1")  # with an empty disk
    assert read_all(lab, "node-1") == mails


def test_s3_away_and_back_on_three_nodes(lab: Lab) -> None:
    """Each node takes mail, each reads what another took, and the backlog goes by itself."""
    before = read_all(lab, "node-1")
    lab.part(NODES, ["s3"])
    sent = []
    for number in range(30):
        mail = message(100 + number, 4_000)
        (reply,) = deliver(lab, NODES[number % 3], mail)
        assert reply.startswith(b"250"), reply
        sent.append(mail)
    for node in NODES:
        assert read_new(lab, node, len(before)) == sent
    assert staged(lab, "node-1") == len(sent)
    lab.heal()
    took = until("the backlog is uploaded", lambda: staged(lab, "node-1") == 0, DRAINED_S)
    print(f"drained {took:.1f} s after S3 was back")
    for node in NODES:
        assert read_all(lab, node) == [*before, *sent]


def read_new(lab: Lab, node: str, first: int) -> list[bytes]:
    """Those after the ``first`` ones, which may have to come from the store that is away."""
    with imap(lab, node) as client:
        client.sock.settimeout(PATIENCE_S * 4)
        client.login(ACCOUNT, lab.password)
        client.select("INBOX", readonly=True)
        status, found = client.fetch(f"{first + 1}:*", "(BODY.PEEK[])")
        assert status == "OK", found
        return [strip_trace(each[1]) for each in found if isinstance(each, tuple)]


def test_a_body_that_only_s3_has_is_unavailable_not_empty_while_it_is_away(lab: Lab) -> None:
    lab.stop("node-3")
    shutil.rmtree(lab.directory / "node-3" / "data" / "cache", ignore_errors=True)
    lab.start("node-3")
    lab.part(["node-3"], ["s3"])
    with imap(lab, "node-3") as client:
        client.sock.settimeout(PATIENCE_S * 4)
        client.login(ACCOUNT, lab.password)
        client.select("INBOX", readonly=True)
        status, found = client.fetch("1", "(BODY.PEEK[])")
        assert status == "NO", found
        assert b"UNAVAILABLE" in found[0]
    lab.heal()
