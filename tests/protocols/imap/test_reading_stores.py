"""Real-looking mail through intake, store, view and session, and back: every octet of every section.

Runs over the memory store and over PostgreSQL; the parts are those the messages were built from.
"""

from __future__ import annotations

import email
import email.policy
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from protocols.imap.commands import COMMANDS
from protocols.imap.dispatcher import Dispatcher
from protocols.imap.machine import ImapMachine
from protocols.imap.registry import CommandTable
from protocols.imap.session import ImapSession
from protocols.imap.views import ViewRegistry
from protocols.ports import Identity, ServerPolicy, Services
from storage.bodies import BodyFinder
from storage.intake import LocalIntake
from storage.memory.blobs import MemoryBlobStore
from storage.mime.message import describe
from storage.model import INBOX, AccountId, Flags, NewMessage, SystemFlag
from storage.objects.codec import Codec, KeyRing
from storage.staging import DatabaseStaging, StagingBound
from tests.support.imap import MemoryFeed
from tests.support.messages import Built, corpus
from tests.support.stores import Stores, memory_stores, postgres_stores, stores
from tests.support.wire import Wire

__all__ = ["memory_stores", "postgres_stores", "stores"]

PREFIX = b"Return-Path: <a@b.test>\r\nDelivered-To: ann@example.org\r\n"
COUNT = 40


@pytest.fixture
def messages() -> list[Built]:
    return list(corpus(11, COUNT))


@pytest_asyncio.fixture
async def client(stores: Stores, tmp_path: Path, messages: list[Built]) -> AsyncIterator[Wire]:
    """A logged-in session with all messages in its INBOX, every second one with a prefix."""
    account_id = await stores.new_account()
    inbox = (await stores.mail.get_mailbox(account_id, INBOX)).id
    codec = Codec(KeyRing(b"k" * 32))
    staging = DatabaseStaging(stores.uploads, StagingBound(1 << 40, _nothing_staged))
    intake = LocalIntake(staging, codec, describe, tmp_path)
    for number, built in enumerate(messages):
        spool = intake.spool()
        spool.write(built.data)
        flags = Flags(SystemFlag.SEEN if number % 3 else SystemFlag.NONE)
        new = NewMessage(inbox, prefix_of(number), flags)
        await stores.mail.append(await intake.take(spool), [new])
    bodies = BodyFinder(MemoryBlobStore(), staging, stores.uploads, codec, tmp_path)
    wire = Wire(_factory(stores, bodies, account_id))
    await wire.send(b"l LOGIN ann secret\r\n")
    assert b"s OK" in await wire.send(b"s SELECT INBOX\r\n")
    yield wire
    await wire.hang_up()
    await bodies.close()


async def _nothing_staged() -> int:
    return 0


def _factory(stores: Stores, bodies: BodyFinder, account_id: AccountId) -> Any:
    async def authenticate(*_words: object) -> Identity:
        return Identity(account_id, "ann", "ann")

    feed: Any = MemoryFeed()
    services = Services(
        mail=stores.mail,
        accounts=cast("Any", None),
        bodies=bodies,
        intake=cast("Any", None),
        feed=feed,
        authenticator=cast("Any", SimpleNamespace(authenticate=authenticate)),
    )
    views = ViewRegistry(stores.mail, feed)
    policy = ServerPolicy("imap", "mail.example.org", insecure_auth=True)

    def factory(connection: Any) -> Any:
        machine = ImapMachine()
        session = ImapSession(connection, machine, services, policy, views, CommandTable(COMMANDS))
        return machine, Dispatcher(session, machine)

    return factory


def prefix_of(number: int) -> bytes:
    return PREFIX if number % 2 else b""


def sections(built: Built, prefix: bytes) -> Iterator[tuple[str, bytes]]:
    """Every section of a message with its octets, by RFC 9051 §6.4.5.1."""
    yield "", prefix + built.data
    yield "HEADER", prefix + built.header
    yield "TEXT", built.body
    yield from parts(built, "")


def parts(message: Built, path: str) -> Iterator[tuple[str, bytes]]:
    """Those of a message's parts; one that is no multipart is its own part 1."""
    if not message.children:
        yield f"{path}1", message.body
        return
    for number, child in enumerate(message.children, start=1):
        here = f"{path}{number}"
        yield here, child.body
        yield f"{here}.MIME", child.header
        if child.type == "message/rfc822":
            (inner,) = child.children
            yield f"{here}.HEADER", inner.header
            yield f"{here}.TEXT", inner.body
            yield from parts(inner, f"{here}.")
        elif child.children:
            yield from parts(child, f"{here}.")


async def test_every_section_is_what_the_message_was_built_from(client: Wire, messages: list[Built]) -> None:
    for number, built in enumerate(messages):
        for section, expected in sections(built, prefix_of(number)):
            answer = await client.send(b"a UID FETCH %d BODY.PEEK[%b]\r\n" % (number + 1, section.encode()))
            shown = b"{%d}\r\n%b" % (len(expected), expected) if expected else b'""'
            head = b"* %d FETCH (UID %d BODY[%b] " % (number + 1, number + 1, section.encode())
            assert answer.startswith(head + shown + b")\r\na OK "), (number, section)


async def test_the_whole_mailbox_at_once(client: Wire, messages: list[Built]) -> None:
    answer = await client.send(b"a FETCH 1:* (RFC822.SIZE BODY[])\r\n")
    for number, built in enumerate(messages):
        whole = prefix_of(number) + built.data
        seen = b"" if number % 3 else b" FLAGS (\\Seen \\Recent)"
        line = b"* %d FETCH (RFC822.SIZE %d BODY[] {%d}\r\n%b%b)\r\n"
        assert line % (number + 1, len(whole), len(whole), whole, seen) in answer
    assert b"* SEARCH\r\n" in await client.send(b"b SEARCH UNSEEN\r\n")


async def test_text_is_found_in_the_messages_that_have_it(client: Wire, messages: list[Built]) -> None:
    answer = await client.send(b"b SEARCH HEADER Delivered-To ann\r\n")
    assert answer.startswith(b"* SEARCH %b\r\n" % b" ".join(b"%d" % n for n in range(2, COUNT + 1, 2)))
    word = "MÜLLER café".encode()
    answer = await client.send(b"c SEARCH CHARSET UTF-8 BODY {%d+}\r\n%b\r\n" % (len(word), word))
    numbers = [int(word) for word in answer.split(b"\r\n")[0].split()[2:]]
    plain = [n for n, built in enumerate(messages, start=1) if has_text(built, "müller café")]
    assert numbers == plain
    assert 0 < len(plain) < COUNT


def has_text(built: Built, word: str) -> bool:
    """In a text part of it, decoded by the standard library."""
    message = email.message_from_bytes(built.data, policy=email.policy.default)
    texts = [part.get_content() for part in message.walk() if part.get_content_maintype() == "text"]
    inner = [str(part["subject"]) for part in message.walk()][1:]
    return any(word.casefold() in text.casefold() for text in [*texts, *inner])
