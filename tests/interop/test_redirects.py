"""Redirects and rejections of a whole node, whose relay ends at Postfix's smtp-sink: envelopes, circles
between accounts, reports that come back, and kill -9 while messages are sent on."""

from __future__ import annotations

import asyncio
import collections
import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from imapclient import IMAPClient

from tests.support.livenode import client_context
from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import NodeProcess
from tests.support.relaysection import undeterred
from tests.support.smtpsink import SmtpSink
from tests.support.waiting import eventually

from .conftest import PASSWORD, SECRET_HASH, needs
from .test_relay import CONCURRENCY, PATIENCE_S, is_empty, queue_of, relaying
from .test_sieve import put

AWAY = "ann@away.test"
SRS = '[sieve]\nsrs_domain = "srs.test"\nsrs_secret = "0123456789abcdef"\n'
ROUNDS, CONNECTIONS, MESSAGES = 3, 6, 4_000
_ENVELOPE = re.compile(
    rb"\AX-Client-Addr: [^\n]*\n(?:X-[^\n]*\n)*?X-Mail-Args: <([^>]*)>[^\n]*\n"
    rb"((?:X-Rcpt-Args: <[^>]*>[^\n]*\n)+)"
    rb"(?:Received: from [^\n]*\n(?:[ \t][^\n]*\n)*)?"
)


@dataclass(frozen=True)
class Taken:
    sender: str
    recipients: tuple[str, ...]
    message: bytes


def taken(sink: SmtpSink) -> list[Taken]:
    """By smtp-sink, without the fields that it puts before a message and the line that it puts behind."""
    found = []
    for path in sorted(sink.directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        raw = path.read_bytes()
        match = _ENVELOPE.match(raw)
        assert match is not None, raw[:500]
        to = tuple(each.decode() for each in re.findall(rb"<([^>]*)>", match[2]))
        message = raw[match.end() :].removesuffix(b"\n").replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        found.append(Taken(match[1].decode(), to, message))
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[SmtpSink, NodeProcess]]:
    needs("smtp-sink")
    with SmtpSink() as sink:
        node = NodeProcess()
        text = undeterred(sink.port, queue_of(node), max_attempts=50, concurrency=CONCURRENCY)
        with node.prepare(lambda config: two_workers(config) + text + SRS):
            yield sink, node


def two_workers(config: str) -> str:
    """Those who queue and the one who relays are processes of their own."""
    assert "workers = 1\n" in config
    return config.replace("workers = 1\n", "workers = 2\n")


def account(node: NodeProcess, name: str, script: str) -> str:
    address = f"{name}@interop.example.test"
    node.admin("accounts", "create", address, "--password-hash", SECRET_HASH)
    put(node, address, "main", script)
    node.admin("sieve", "activate", address, "main")
    return address


def deliver(node: NodeProcess, address: str, message: bytes, sender: str = "bob@far.test") -> tuple[int, str]:
    async def run() -> tuple[int, str]:
        client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
        (reply,) = await client.deliver(message, [address], sender)
        await client.close()
        return reply

    return asyncio.run(run())


def stored(node: NodeProcess, address: str, password: str = PASSWORD) -> list[bytes]:
    with IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(address, password)
        client.select_folder("INBOX", readonly=True)
        return [entry[b"BODY[]"] for entry in client.fetch(client.search(), ["BODY.PEEK[]"]).values()]


def marked(mark: str) -> bytes:
    return f"From: bob@far.test\r\nX-Mark: {mark}\r\nSubject: x\r\n\r\nhello\r\n".encode()


def relayed(sink: SmtpSink, node: NodeProcess, mark: str) -> list[Taken]:
    """What carries the mark in the sink, when nothing is on its way any more."""
    eventually(lambda: is_empty(node))
    return [each for each in taken(sink) if f"X-Mark: {mark}\r\n".encode() in each.message]


def test_a_redirect_and_the_report_about_it(world: tuple[SmtpSink, NodeProcess]) -> None:
    sink, node = world
    address = account(node, "redirects", f'redirect "{AWAY}"; redirect "ann@else.test";')
    assert deliver(node, address, marked("redirects"))[0] == 250
    first, second = sorted(relayed(sink, node, "redirects"), key=lambda each: each.recipients)
    assert (first.recipients, second.recipients) == ((AWAY,), ("ann@else.test",))
    assert first.sender.startswith("SRS0=")
    assert first.sender.endswith("=far.test=bob@srs.test")
    assert first.message.startswith(b"X-Sora-Loop: 1\r\nDelivered-To: redirects@interop.example.test\r\n")
    assert first.message.endswith(marked("redirects"))
    assert stored(node, address) == []
    # the remote refuses it later: its report comes to the sender that we made
    report = b"X-Mark: report\r\nSubject: Undelivered\r\n\r\nno such user\r\n"
    assert deliver(node, first.sender, report, "")[0] == 250
    (back,) = relayed(sink, node, "report")
    assert (back.sender, back.recipients) == ("", ("bob@far.test",))
    assert deliver(node, first.sender, report, "mallory@far.test")[0] == 550
    assert deliver(node, first.sender.replace("bob@", "rob@"), report, "")[0] == 550


def test_rejections(world: tuple[SmtpSink, NodeProcess]) -> None:
    sink, node = world
    plain = account(node, "rejects", 'require "reject"; reject "Not here";')
    assert deliver(node, plain, marked("plain")) == (550, "550 5.7.1 Not here")
    other = account(node, "reports", 'require "reject"; reject "Schöne Grüße";')
    assert deliver(node, other, marked("rejected"))[0] == 250
    (report,) = relayed(sink, node, "rejected")
    assert (report.sender, report.recipients) == ("", ("bob@far.test",))
    assert b"Status: 5.7.1\r\n" in report.message
    assert stored(node, plain) == stored(node, other) == []


def test_two_accounts_that_redirect_to_each_other(world: tuple[SmtpSink, NodeProcess]) -> None:
    """The relay hands everything back to the node, as the site's MTA does."""
    sink, node = world
    first = account(node, "first", 'redirect "second@interop.example.test";')
    second = account(node, "second", f'redirect "{first}";')
    assert deliver(node, first, marked("circle"))[0] == 250
    seen = 0
    while seen < len(relayed(sink, node, "circle")):
        each = relayed(sink, node, "circle")[seen]
        seen += 1
        assert seen < 5
        for recipient in each.recipients:
            assert deliver(node, recipient, each.message, each.sender)[0] == 250
    assert (len(stored(node, first)), len(stored(node, second))) == (0, 1)


# --- kill -9 --------------------------------------------------------------------------------------


async def deliver_until_cut(
    node: NodeProcess,
    unsent: collections.deque[int],
    tried: set[int],
    acked: set[int],
    address: str,
) -> None:
    """What was not answered when the connection broke goes back, as an MTA does."""
    try:
        client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
    except OSError:
        return
    while unsent:
        number = unsent.popleft()
        tried.add(number)
        try:
            ((code, text),) = await client.deliver(marked(f"m{number}."), [address])
        except (ConnectionError, OSError):
            unsent.append(number)
            return
        if code == 250:
            acked.add(number)
        else:
            assert 400 <= code < 500, text
            unsent.append(number)
    await client.close()


async def load_and_kill(
    node: NodeProcess,
    unsent: collections.deque[int],
    tried: set[int],
    acked: set[int],
    address: str,
    enough: int,
) -> None:
    """Hand mail in over several connections until so many were answered; then the node dies."""
    tasks = [
        asyncio.create_task(deliver_until_cut(node, unsent, tried, acked, address))
        for _ in range(CONNECTIONS)
    ]
    async with asyncio.timeout(PATIENCE_S):
        while len(acked) < enough:
            await asyncio.sleep(0.001)
    node.kill(children=True)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("relays", [False, True], ids=["relay away", "relay takes all"])
def test_kill_9_between_queueing_and_the_answer(relays: bool) -> None:
    """Every message has one copy here and is sent on once; with the relay at work, what it was just being
    handed may go twice (``docs/relay.md``), and that is all."""
    rng = random.Random(int(relays))
    unsent, tried, acked = collections.deque(range(MESSAGES)), set[int](), set[int]()
    with SmtpSink() as sink:
        node = relaying(sink)
        config = node.directory / "data" / "config.toml"
        config.write_text(
            two_workers(config.read_text()).replace(
                'type = "lmtp"\n', 'type = "lmtp"\nlimits.redirect_rate_limit = 0\n'
            )
        )
        if not relays:
            sink.stop()
        with node:
            put(node, node.address, "main", f'require "copy"; redirect :copy "{AWAY}";')
            node.admin("sieve", "activate", node.address, "main")
            for _ in range(ROUNDS):
                enough = len(acked) + rng.randint(20, 250)
                asyncio.run(load_and_kill(node, unsent, tried, acked, node.address, enough))
                node.start()
            unsent = collections.deque(number for number in unsent if number in tried)
            asyncio.run(deliver_until_cut(node, unsent, tried, acked, node.address))
            assert acked == tried
            if not relays:
                sink.start()
            eventually(lambda: is_empty(node))
            here = collections.Counter(
                int(match[1])
                for message in stored(node, node.address, node.password)
                if (match := re.search(rb"X-Mark: m(\d+)\.", message))
            )
        there = collections.Counter({int(mark[1:-1]): count for mark, count in sink.marks().items()})
    assert here == dict.fromkeys(acked, 1)
    assert set(there) == acked, "lost, or sent on without an answer"
    again = sum(there.values()) - len(acked)
    assert again <= (ROUNDS * CONCURRENCY if relays else 0), f"{again} were sent on twice"


@contextmanager
def no_claims(node: NodeProcess) -> Iterator[None]:
    """Redirects are queued meanwhile, and whether they go stays open: what writes that down waits, and is
    given up in the end."""
    config = tomllib.loads((node.directory / "data" / "config.toml").read_text())
    access = config["database"]["write"]
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(
        asyncpg.connect(
            host=access["hosts"][0],
            user=access["user"],
            password=Path(access["password_file"]).read_text().strip(),
            database=access["name"],
        )
    )
    try:
        loop.run_until_complete(connection.execute("BEGIN; LOCK sieve_answers IN SHARE MODE"))
        yield
        waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
        loop.run_until_complete(connection.execute(waiting))
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def queued(node: NodeProcess) -> int:
    return len([path for path in (queue_of(node) / "pending").iterdir() if path.name[0] != "."])


async def hand_in_and_die(node: NodeProcess, address: str, numbers: Sequence[int], enough: int) -> None:
    """A connection for each; the node dies when so many are queued, and nobody is answered."""
    nobody = set[int]()
    before = queued(node)
    tasks = [
        asyncio.create_task(
            deliver_until_cut(node, collections.deque([number]), set(), nobody, address),
        )
        for number in numbers
    ]
    async with asyncio.timeout(PATIENCE_S):
        while queued(node) < before + enough:
            await asyncio.sleep(0.01)
    node.kill(children=True)
    await asyncio.gather(*tasks)
    assert not nobody


@pytest.mark.parametrize("is_back_first", [False, True], ids=["other node first", "dead node first"])
def test_what_comes_again_to_another_node_goes_once(is_back_first: bool) -> None:
    """A node dies after it has queued redirects; the MTA, which has heard nothing, hands the same mail to
    another node. Whoever comes first, every message goes once."""
    numbers = range(CONNECTIONS)
    with SmtpSink() as sink:
        first = relaying(sink)
        config = first.directory / "data" / "config.toml"
        config.write_text(two_workers(config.read_text()))
        with first:
            put(first, first.address, "main", f'redirect "{AWAY}";')
            first.admin("sieve", "activate", first.address, "main")
            second = first.beside("second")
            assert second.run_config is not None
            text = second.run_config.read_text()
            second.run_config.write_text(text.replace(str(queue_of(first)), str(queue_of(second))))
            with second:
                with no_claims(first):
                    asyncio.run(hand_in_and_die(second, first.address, numbers, CONNECTIONS))
                assert queued(second) == CONNECTIONS
                assert not sink.marks()
                if is_back_first:
                    second.start()
                    eventually(lambda: is_empty(second))
                    assert len(sink.marks()) == CONNECTIONS
                acked = set[int]()
                again = collections.deque(numbers)
                asyncio.run(deliver_until_cut(first, again, set(), acked, first.address))
                assert acked == set(numbers)
                eventually(lambda: is_empty(first))
                assert len(sink.marks()) == CONNECTIONS
                if not is_back_first:
                    second.start()
                    eventually(lambda: is_empty(second))
            assert sink.marks() == {f"m{number}.": 1 for number in numbers}
            assert stored(first, first.address, first.password) == []
