"""A day's mail through Debian's Postfix in front and behind: every message ends where it has to, once.

Users put their scripts with sieve-connect. Strangers send through a Postfix that hands mail to the node by
LMTP; what scripts send goes through the relay queue to another Postfix, which refuses one address, brings
mail for our own domain to a second node, and keeps the rest for the ledger (``tests.support.ledger``).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from imapclient import IMAPClient

from tests.support.ledger import (
    ACCOUNTS,
    DOMAIN,
    GONE,
    Account,
    Day,
    Entry,
    Letter,
    balance,
    checksum,
    filed,
    sent,
)
from tests.support.livenode import client_context
from tests.support.nodeprocess import NodeProcess
from tests.support.postfix import Postfix, is_installed
from tests.support.relaysection import undeterred
from tests.support.sieveconnect import SieveConnect
from tests.support.waiting import eventually

from .conftest import PASSWORD, SECRET_HASH, needs

SETTLES_WITHIN_S = 600.0
CLIENTS = 4
CONCURRENCY = 5
PLENTY = 1_000_000
AT_A_TIME = 20  # messages that Postfix hands over by LMTP, as main.cf says by itself


@dataclass
class Street:
    """Postfix, a node, Postfix again, and a second node, whose relay is the second Postfix, too."""

    front: Postfix
    node: NodeProcess
    behind: Postfix
    second: NodeProcess

    def relayed(self) -> list[Path]:
        return [path for node in (self.node, self.second) for path in relayed(node)]

    def post(self, letters: Sequence[Letter]) -> None:
        """By several clients at a time; in what order they arrive is open."""

        def send(some: Sequence[Letter]) -> None:
            for letter in some:
                assert not self.front.send(letter.sender, letter.recipients, letter.content)

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(send, [letters[n::CLIENTS] for n in range(CLIENTS)]))

    def found(self) -> Counter[Entry]:
        found: Counter[Entry] = Counter()
        for account in ACCOUNTS:
            with self._login(account.address) as client:
                found.update(filed(client, account.name, self.behind.hostname))
        found.update(sent(self.front.mails()))
        found.update(sent(self.behind.mails()))
        return found

    def _login(self, address: str) -> IMAPClient:
        client = IMAPClient("localhost", port=self.node.port("imaps"), ssl_context=client_context(self.node))
        client.login(address, PASSWORD)
        return client

    def settle(self) -> None:
        """Until nothing is on its way in any of the three."""

        def is_quiet() -> bool:
            return not (self.front.queue() or self.relayed() or self.behind.queue())

        deadline = time.monotonic() + SETTLES_WITHIN_S
        while not (is_quiet() and is_quiet()):  # mail goes round: what left one may have come to another
            assert time.monotonic() < deadline, self._waiting()
            for mta in (self.front, self.behind):
                mta.flush()  # who lost a connection to a killed node waits longer each time
            time.sleep(0.5)

    def _waiting(self) -> str:
        queues = (
            f"front: {self.front.queue()[:3]}\nbehind: {self.behind.queue()[:3]}\nrelay: {self.relayed()}"
        )
        return f"{queues}\n{self.node.log[-2000:]}\n{self.second.log[-2000:]}"


def relayed(node: NodeProcess) -> list[Path]:
    """Messages that wait in the relay queue or are being sent."""
    root = queue_of(node)
    states = (root / "pending", root / "processing")
    return [path for state in states for path in state.glob("*") if not path.name.startswith(".")]


def queue_of(node: NodeProcess) -> Path:
    return node.directory / "data" / "relay"


def configured(config: str, port: int, queue: Path) -> str:
    """Two workers, a relay, and no limit of redirects: a day's mail comes in minutes here."""
    unlimited = f'type = "lmtp"\nlimits.redirect_rate_limit = {PLENTY}\n'
    config = config.replace("workers = 1\n", "workers = 2\n").replace('type = "lmtp"\n', unlimited)
    return config + undeterred(port, queue, max_attempts=1000, concurrency=CONCURRENCY)


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    for program in ("postfix", "sieve-connect"):
        needs(program)
    if not is_installed():
        pytest.skip("SKIPPED: a private Postfix needs root")
    with ExitStack() as stack:
        behind = Postfix(hostname="out.test", replies={GONE: "550 5.1.1 no such user"})
        node = NodeProcess()
        node.prepare(lambda config: configured(config, behind.port, queue_of(node)))
        stack.enter_context(node)
        second = node.beside("second")
        assert second.run_config is not None
        text = second.run_config.read_text()
        second.run_config.write_text(text.replace(str(queue_of(node)), str(queue_of(second))))
        stack.enter_context(second)
        behind.lmtp = {DOMAIN: second.port("lmtp")}
        stack.enter_context(behind)
        front = stack.enter_context(Postfix(hostname="mx.test", lmtp={DOMAIN: node.port("lmtp")}))
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda account: move_in(node, account, tmp_path), ACCOUNTS))
        yield Street(front, node, behind, second)


def move_in(node: NodeProcess, account: Account, directory: Path) -> None:
    node.admin("accounts", "create", account.address, "--password-hash", SECRET_HASH)
    if account.script:
        script = directory / f"{account.name}.sieve"
        script.write_text(account.script)
        SieveConnect(node, account.address, PASSWORD).install(str(script))


def test_every_message_of_a_day_is_accounted_for(street: Street, tmp_path: Path) -> None:
    day = Day(seed=20261122, count=700, senders=12)
    street.post(day.letters)
    street.settle()
    difference = balance(day.expected, street.found())
    assert not difference, difference
    edited_at_noon(street, tmp_path)


def edited_at_noon(street: Street, tmp_path: Path) -> None:
    """What comes after a user has changed the script is filed by the new one, all of it, once."""
    user, script = f"plain@{DOMAIN}", tmp_path / "noon.sieve"
    before = street.found()
    script.write_text('require ["fileinto", "mailbox"]; fileinto :create "Afternoon";')
    SieveConnect(street.node, user, PASSWORD).install(str(script), "noon")
    marks = [f"noon{n}" for n in range(50)]
    for mark in marks:
        assert post(street, user, mark)
        time.sleep(0.02)
    street.settle()
    ends = street.found() - before
    assert sorted(entry.mark for entry in ends.elements()) == sorted(marks)
    assert {entry.where for entry in ends} <= {"plain/INBOX", "plain/Afternoon"}
    evening = (f"evening{n}" for n in itertools.count())
    eventually(lambda: post(street, user, mark := next(evening)) and is_filed(street, mark))


def is_filed(street: Street, mark: str) -> bool:
    """Where the new script has it."""
    street.settle()
    return street.found()[Entry("filed", mark, "plain/Afternoon")] == 1


def post(street: Street, user: str, mark: str) -> bool:
    content = (
        f"From: <one@outside.test>\r\nTo: {user}\r\nX-Mark: {mark}\r\nX-Sum: {checksum(b'hello')}\r\n"
        "\r\nhello\r\n"
    )
    return not street.front.send("one@outside.test", [user], content.encode())


def test_every_message_is_accounted_for_over_kill_9(street: Street) -> None:
    """The node dies in the middle of it. What is stored stays exact. Only mail that the next server was just
    being handed may come there twice, and only a reply that was just being made may be left out."""
    kills = 3
    day = Day(seed=7, count=400, senders=8)
    posting = threading.Thread(target=street.post, args=(day.letters,))
    posting.start()
    for number in range(kills):
        eventually(lambda: len(street.behind.mails()) > 30 * (number + 1), SETTLES_WITHIN_S)  # noqa: B023
        street.node.kill(children=True)
        street.node.start()
    posting.join()
    street.settle()
    found = street.found()
    lost, extra = day.expected - found, found - day.expected
    difference = balance(day.expected, found)
    assert {entry.what for entry in lost} <= {"answered", "noted"}, difference
    assert lost.total() <= kills * AT_A_TIME, difference
    assert {entry.what for entry in extra} <= {"relayed", "returned", "bounced", "answered"}, difference
    assert extra.total() <= kills * (CONCURRENCY + AT_A_TIME), difference
