"""Vacation and notify through two whole nodes with one database, whose relays end at Postfix's smtp-sink."""

from __future__ import annotations

import asyncio
import email
import email.policy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage

import pytest
from imapclient import IMAPClient

from tests.support.livenode import client_context
from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import NodeProcess
from tests.support.smtpsink import SmtpSink
from tests.support.waiting import eventually

from .conftest import PASSWORD, SECRET_HASH
from .test_relay import is_empty, relaying
from .test_sieve import put

SCRIPT = """
require ["vacation", "enotify", "fcc", "imap4flags"];
vacation :fcc "Sent" :flags "\\\\Seen" :subject "Bin weg" "Ich bin erst am Montag zurück.";
if header :is "subject" "urgent" { notify "mailto:pager@phone.test?subject=Look"; }
"""


@dataclass
class Pair:
    sink: SmtpSink
    nodes: tuple[NodeProcess, NodeProcess]

    def sent(self) -> list[EmailMessage]:
        """What the sink has taken, when nothing is on its way any more."""
        eventually(lambda: all(map(is_empty, self.nodes)))
        found = []
        for path in sorted(self.sink.directory.iterdir()):
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            found.append(message)
        return found

    def forget(self) -> None:
        self.sink.stop()
        self.sink.forget()
        self.sink.start()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with SmtpSink() as sink, relaying(sink) as first:
        second = first.beside("second")
        assert second.run_config is not None
        text = second.run_config.read_text()
        assert "workers = 1\n" in text
        text = text.replace("workers = 1\n", "workers = 2\n")  # the crowd comes to three processes
        own = f'path = "{second.directory}/data/relay"'
        second.run_config.write_text(text.replace(f'path = "{first.directory}/data/relay"', own))
        with second:
            yield Pair(sink, (first, second))


@pytest.fixture
def away(pair: Pair, request: pytest.FixtureRequest) -> Iterator[str]:
    """An account that answers; the sink is empty."""
    address = f"{request.node.name.replace('_', '-')[:40]}@interop.example.test"
    pair.nodes[0].admin("accounts", "create", address, "--password-hash", SECRET_HASH)
    put(pair.nodes[0], address, "main", SCRIPT)
    pair.nodes[0].admin("sieve", "activate", address, "main")
    yield address
    pair.forget()


def letter(to: str, number: str, **fields: str) -> bytes:
    header = {"From": "somebody@far.test", "To": to, "Subject": "Hello", "Message-ID": f"<{number}@far.test>"}
    header |= {name.replace("_", "-"): value for name, value in fields.items()}
    return "".join(f"{name}: {value}\r\n" for name, value in header.items()).encode() + b"\r\ntext\r\n"


Mail = tuple[str, bytes]  # sender and octets


async def deliver(node: NodeProcess, to: str, mails: Sequence[Mail]) -> None:
    client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
    for sender, octets in mails:
        ((code, text),) = await client.deliver(octets, [to], sender)
        assert code == 250, text
    await client.close()


def test_each_sender_is_answered_once_by_two_nodes(pair: Pair, away: str) -> None:
    senders = [f"s{n}@far.test" for n in range(5)]

    async def crowd() -> None:
        """Every sender writes through both nodes at once, several times over several connections."""
        deliveries = []
        for number in range(8):
            mails = [(sender, letter(away, f"{number}-{sender}")) for sender in senders]
            deliveries.append(deliver(pair.nodes[number % 2], away, mails))
        await asyncio.gather(*deliveries)
        # a server that has lost a reply tries the other node
        again = [(sender, letter(away, f"0-{sender}")) for sender in senders]
        await deliver(pair.nodes[1], away, again)

    asyncio.run(crowd())
    sent = pair.sent()
    assert Counter(message["X-Rcpt-Args"] for message in sent) == {f"<{each}>": 1 for each in senders}
    for message in sent:
        assert message["X-Mail-Args"].split()[0] == "<>"
        assert message["Auto-Submitted"] == "auto-replied (vacation)"
        assert message["Subject"] == "Bin weg"
        assert message["From"] == away
        assert message.get_content().strip() == "Ich bin erst am Montag zurück."
    port = pair.nodes[0].port("imaps")
    with IMAPClient("127.0.0.1", port, ssl_context=client_context(pair.nodes[0])) as client:
        client.login(away, PASSWORD)
        assert client.select_folder("INBOX")[b"EXISTS"] == 8 * len(senders)
        assert client.select_folder("Sent")[b"EXISTS"] == len(senders)
        assert len(client.search("SEEN")) == len(senders)


def test_lists_and_machines_are_never_answered(pair: Pair, away: str) -> None:
    mails = [
        ("list-bounces@far.test", letter(away, "1")),
        ("a@far.test", letter(away, "2", List_Id="<list.far.test>")),
        ("b@far.test", letter(away, "3", Precedence="bulk")),
        ("c@far.test", letter(away, "4", Auto_Submitted="auto-generated", Subject="urgent")),
        ("d@far.test", letter("somebody.else@far.test", "5")),
        ("", letter(away, "6")),
        (away, letter(away, "7")),
        ("noreply@far.test", letter(away, "8")),
    ]
    asyncio.run(deliver(pair.nodes[0], away, [*mails, ("last@far.test", letter(away, "9"))]))
    assert [message["X-Rcpt-Args"] for message in pair.sent()] == ["<last@far.test>"]


def test_a_notification_goes_once(pair: Pair, away: str) -> None:
    mail = ("boss@far.test", letter(away, "1", Subject="urgent"))
    for node in (*pair.nodes, *pair.nodes):
        asyncio.run(deliver(node, away, [mail]))
    sent = {re.sub("[<>]", "", message["X-Rcpt-Args"]): message for message in pair.sent()}
    assert sorted(sent) == ["boss@far.test", "pager@phone.test"]
    assert len(pair.sent()) == 2
    notice = sent["pager@phone.test"]
    assert notice["X-Mail-Args"].split()[0] == f"<{away}>"
    assert notice["Subject"] == "Look"
    assert notice["Auto-Submitted"].startswith("auto-notified")
