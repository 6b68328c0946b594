"""A whole node and a spam filter: moves by IMAP, and the filter away, hanging and back."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import pytest
from imapclient import IMAPClient

from tests.interop.conftest import deliver
from tests.support.livenode import client_context
from tests.support.nodeprocess import NodeProcess
from tests.support.spamfilter import SpamFilter
from tests.support.waiting import eventually

PATIENCE_S = 60.0
TOKEN = "letmein-7Qx"
TRAINING = """
[spam_training]
enabled = true
endpoint = "{url}"
auth_token = "{token}"
timeout = "{timeout}"
{more}

[spam_training.circuit_breaker]
threshold = 3
timeout = "1s"
"""
METRICS = """
[[servers]]
type = "metrics"
name = "metrics"
addr = "127.0.0.1:0"
"""
PDF = (
    b"Subject: with pdf\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    b"--x\r\n\r\nlook inside\r\n--x\r\nContent-Type: application/pdf\r\n\r\nPDFPDFPDF\r\n--x--\r\n"
)


def training_node(server: SpamFilter, more: str, after: str, timeout: str) -> NodeProcess:
    section = TRAINING.format(url=server.url, token=TOKEN, more=more, timeout=timeout) + after
    return NodeProcess().prepare(lambda text: text + section)


def log_in(node: NodeProcess) -> IMAPClient:
    client = IMAPClient("localhost", node.port("imaps"), ssl_context=client_context(node), timeout=PATIENCE_S)
    client.login(node.address, node.password)
    return client


def message(number: int) -> bytes:
    return b"Subject: m%d\r\n\r\nbuy number %d\r\n" % (number, number)


@dataclass
class Site:
    """A node and its filter, and Ann's mail of the test at hand."""

    server: SpamFilter
    node: NodeProcess
    client: IMAPClient

    def put(self, *messages: bytes) -> list[int]:
        """Into the INBOX, which is selected; their uids."""
        deliver(self.node, self.node.address, messages)
        self.client.select_folder("INBOX")
        return sorted(self.client.search(["ALL"]))[-len(messages) :]

    def until_taught(self, count: int) -> list[dict[str, Any]]:
        """Lessons since ``clear``, without those that were taught again after a reply that came too late."""
        eventually(lambda: len(self.taught) >= count, what=f"{count} lessons")
        return self.taught

    @property
    def taught(self) -> list[dict[str, Any]]:
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for each in list(self.server.lessons):
            found.setdefault((each["hash"], each["class"], each["to_mailbox"]), each)
        return list(found.values())

    def in_junk(self) -> int:
        return int(self.client.folder_status("Junk", ["MESSAGES"])[b"MESSAGES"])

    def clear(self) -> None:
        self.server.release()
        self.server.status = 200
        for folder in ("INBOX", "Junk"):
            self.client.select_folder(folder)
            self.client.delete_messages(self.client.search(["ALL"]))
            self.client.expunge()
        self.server.lessons.clear()
        self.server.asked = 0


@contextmanager
def serving(more: str = "", after: str = "", timeout: str = "1s") -> Iterator[Site]:
    with (
        SpamFilter(TOKEN) as server,
        training_node(server, more, after, timeout) as node,
        log_in(node) as client,
    ):
        yield Site(server, node, client)


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with serving(after=METRICS) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.clear()


def test_moves_into_junk_and_back_teach(site: Site) -> None:
    client = site.client
    client.move(site.put(message(1), PDF), "Junk")
    first = {
        re.findall(rb"Subject: (.*)\r\n", text)[0]: (each, text) for each, text in read(site.until_taught(2))
    }
    (lesson, text), (with_pdf, pdf_text) = first[b"m1"], first[b"with pdf"]
    assert text.endswith(message(1))
    assert (lesson["class"], lesson["to_mailbox"], lesson["account"]) == ("spam", "Junk", site.node.address)
    assert b"look inside" in pdf_text
    assert b"PDFPDF" not in pdf_text
    assert with_pdf["left_out"] == 1
    client.select_folder("Junk")
    one, other = sorted(client.search(["ALL"]))
    client.move([one], "INBOX")
    ham = site.until_taught(3)[2]
    assert (ham["class"], ham["from_mailbox"], ham["to_mailbox"]) == ("ham", "Junk", "INBOX")
    client.copy([other], "Archive")
    assert site.until_taught(4)[3]["to_mailbox"] == "Archive"
    client.move([other], "Trash")
    client.select_folder("INBOX")
    client.move(site.put(message(2)), "Junk")
    assert site.until_taught(5)[4]["class"] == "spam", "the Trash said nothing"
    assert site.server.unauthorized == 0


def read(lessons: list[dict[str, Any]]) -> list[tuple[dict[str, Any], bytes]]:
    return [(each, base64.b64decode(each["message"])) for each in lessons]


def test_a_filter_that_is_not_there(site: Site) -> None:
    uids = site.put(*(message(n) for n in range(10, 16)))
    site.server.stop()
    site.client.move(uids, "Junk")
    assert site.in_junk() == 6
    site.server.start()
    site.until_taught(6)
    assert TOKEN not in site.node.log


def test_a_filter_that_fails(site: Site) -> None:
    site.server.status = 500
    site.client.move(site.put(*(message(n) for n in range(20, 26))), "Junk")
    eventually(lambda: site.server.asked >= 3, what="it is asked")
    assert site.in_junk() == 6
    site.server.status = 200
    site.until_taught(6)


def test_a_filter_that_hangs(site: Site) -> None:
    site.server.hold()
    site.client.move(site.put(*(message(n) for n in range(30, 36))), "Junk")
    assert site.in_junk() == 6
    eventually(lambda: site.server.asked >= 3, what="it is asked")
    site.server.release()
    site.until_taught(6)


def test_marked_mail_is_in_junk_and_figures_are_told(site: Site) -> None:
    deliver(site.node, site.node.address, [b"X-Spam-Flag: YES\r\n" + message(50), message(51)])
    assert site.in_junk() == 1
    site.client.select_folder("Junk")
    site.client.move(site.client.search(["ALL"]), "INBOX")
    site.until_taught(1)
    url = f"http://127.0.0.1:{site.node.port('metrics')}/metrics"

    def is_told() -> bool:
        with urlopen(url) as page:
            return b'sora_spam_training_total{class="ham",result="taught"}' in page.read()

    eventually(is_told, what="the figure")


def test_users_who_wait() -> None:
    """With ``async = false`` the answer comes after the lesson."""
    with serving("async = false", timeout="60s") as site, ThreadPoolExecutor(1) as pool:
        uids = site.put(message(60))
        site.server.hold()
        answer = pool.submit(site.client.move, uids, "Junk")
        eventually(lambda: site.server.asked, what="it is asked")
        assert not answer.done()
        site.server.release()
        answer.result(PATIENCE_S)
        assert len(site.server.lessons) == 1


def test_users_who_have_waited_enough_and_the_stop() -> None:
    """A filter that hangs keeps nobody for longer than its time; what is left at a stop has some seconds."""
    with serving("async = false") as site:
        site.client.move(site.put(message(60)), "Junk")
        site.until_taught(1)
        site.server.hold()
        site.client.move(site.put(*(message(n) for n in range(61, 71))), "Junk")
        assert site.in_junk() == 11
        site.server.release()
        assert site.node.stop() == 0
        assert len(site.until_taught(11)) >= 11
