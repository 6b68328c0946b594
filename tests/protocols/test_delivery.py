"""Delivery: which copies are made, what each recipient is told, and what happens when stores fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.copies import delivery_key
from protocols.delivery import deliver
from protocols.envelope import Destination, Envelope, MailLoop, Outcome
from protocols.sending.way import MAX_RECEIVED_FIELDS, read_way
from protocols.tracefields import trace_headers
from storage.errors import CommitUnknown, NotFound, StorageError, Unavailable
from storage.model import AccountId, ContentHash, MailboxId, Recipient
from tests.support.mailhost import NOW, MailHost, mail_host

ENVELOPE = Envelope(
    reverse_path="from@far.example",
    helo="mx.far.example",
    client_ip="192.0.2.9",
    hostname="mail.example.test",
    protocol="LMTP",
    session_id="s1",
    received_at=NOW,
)
MESSAGE = b"Subject: hi\r\n\r\nbody\r\n"


@pytest.fixture
async def host() -> MailHost:
    return await mail_host()


async def resolve(host: MailHost, address: str) -> Destination | None:
    user, _, domain = address.partition("@")
    base, _, detail = user.partition("+")
    recipient = await host.account_store.recipient(f"{base}@{domain}")
    return recipient and Destination(address, detail, recipient)


async def send(
    host: MailHost, *addresses: str, message: bytes = MESSAGE, envelope: Envelope = ENVELOPE
) -> list[Outcome]:
    destinations = [await resolve(host, address) for address in addresses]
    spool = host.intake.spool()
    spool.write(message)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    outcomes = await deliver(
        host.services,
        envelope,
        spool,
        [each for each in destinations if each is not None],
        lambda address: resolve(host, address),
        sleep=sleep,
    )
    assert host.intake.open_spools == 0
    assert sum(slept) < 60
    return outcomes


@pytest.mark.parametrize(
    ("addresses", "in_ann", "in_bob"),
    [
        (["ann@example.test"], 1, 0),
        (["ann@example.test", "bob@example.test"], 1, 1),
        (["ann@example.test", "ann@example.test"], 1, 0),
        (["ann@example.test", "alias@example.test"], 1, 0),
        (["ann@example.test", "ann+x@example.test", "alias+x@example.test"], 2, 0),
    ],
)
async def test_one_copy_for_each_account_and_detail(
    host: MailHost, addresses: list[str], in_ann: int, in_bob: int
) -> None:
    await host.add_alias("ann@example.test", "alias@example.test")
    assert await send(host, *addresses) == [None] * len(addresses)
    assert (len(await host.inbox()), len(await host.inbox("bob@example.test"))) == (in_ann, in_bob)
    assert await send(host, *addresses) == [None] * len(addresses)
    assert (len(await host.inbox()), len(await host.inbox("bob@example.test"))) == (in_ann, in_bob)
    assert host.mail.calls == ["append", "append"]


async def test_other_sender_or_other_bytes_are_another_message(host: MailHost) -> None:
    await send(host, "ann@example.test")
    await send(host, "ann@example.test", envelope=replace(ENVELOPE, reverse_path="other@far.example"))
    await send(host, "ann@example.test", message=MESSAGE + b"more")
    assert len(await host.inbox()) == 3


async def test_commit_is_published_once_a_mailbox(host: MailHost) -> None:
    await send(host, "ann@example.test", "ann+x@example.test", "bob@example.test")
    inboxes = [await host.inbox_id(), await host.inbox_id("bob@example.test")]
    assert [(change.mailbox_id, change.modseq) for change in host.feed.published] == [
        (inboxes[0], 2),
        (inboxes[1], 2),
    ]


async def test_recipients_do_not_see_each_other(host: MailHost) -> None:
    await send(host, "ann@example.test", "bob@example.test")
    (stored,) = await host.inbox()
    assert b"bob" not in stored.prefix
    assert b"for <" not in stored.prefix


async def test_vanished_mailbox_does_not_fail_the_others(host: MailHost) -> None:
    await host.drop_inbox("bob@example.test")
    ann, bob = await send(host, "ann@example.test", "bob@example.test")
    assert ann is None
    assert isinstance(bob, StorageError)
    assert bob.transient
    assert len(await host.inbox()) == 1


async def test_vanished_account_is_unknown(host: MailHost) -> None:
    gone = await resolve(host, "bob@example.test")
    assert gone is not None
    await host.drop_inbox("bob@example.test")
    await host.account_store.delete_account("bob@example.test")
    spool = host.intake.spool()
    spool.write(MESSAGE)
    (outcome,) = await deliver(host.services, ENVELOPE, spool, [gone], lambda a: resolve(host, a))
    assert isinstance(outcome, NotFound)
    assert host.intake.discarded == 1


@pytest.mark.parametrize(
    ("happened", "read_back", "durable"),
    [
        (True, [], True),
        (False, [], False),
        (True, [Unavailable("db"), Unavailable("db")], True),
        (True, [Unavailable("db")] * 10, False),
    ],
)
async def test_unknown_commit(
    host: MailHost, happened: bool, read_back: list[BaseException], durable: bool
) -> None:
    (host.mail.after if happened else host.mail.faults)["append"] = [CommitUnknown("lost")]
    host.mail.faults["delivered"] = read_back
    (outcome,) = await send(host, "ann@example.test")
    assert (outcome is None) == durable
    assert outcome is None or isinstance(outcome, CommitUnknown)
    assert len(host.feed.published) == durable
    assert host.intake.discarded == 0
    assert await send(host, "ann@example.test") == [None]
    assert len(await host.inbox()) == 1


async def test_many_copies_of_an_unknown_commit_share_the_waits(host: MailHost) -> None:
    """The MTA waits ten minutes for its answers, and would hang up and come again with a database that stays
    away for as long as that; ``send`` bounds what is slept."""
    host.mail.after["append"] = [CommitUnknown("lost")]
    host.mail.faults["delivered"] = [Unavailable("db")] * 3
    assert await send(host, *(f"ann+{n}@example.test" for n in range(50))) == [None] * 50
    assert host.mail.calls.count("delivered") == 3 + 50
    host.mail.after["append"] = [CommitUnknown("lost")]
    host.mail.faults["delivered"] = [Unavailable("db")] * 1000
    found = await send(host, *(f"bob+{n}@example.test" for n in range(50)))
    assert all(isinstance(each, CommitUnknown) for each in found)
    host.mail.faults.clear()
    assert await send(host, *(f"bob+{n}@example.test" for n in range(50))) == [None] * 50
    assert len(await host.inbox()) == len(await host.inbox("bob@example.test")) == 50


async def test_first_fault_at_every_call(host: MailHost) -> None:
    """A 250 implies exactly one copy after a retry, whichever call failed before."""
    for name in ("append", "delivered", "modseqs"):
        for where in (host.mail.faults, host.mail.after):
            fresh = await mail_host()
            faults = fresh.mail.faults if where is host.mail.faults else fresh.mail.after
            faults[name] = [CommitUnknown("lost") if name == "append" else Unavailable("db")]
            fresh.mail.after.setdefault("append", [CommitUnknown("lost")])
            await send(fresh, "ann@example.test")
            assert await send(fresh, "ann@example.test") == [None]
            assert len(await fresh.inbox()) == 1


@pytest.mark.parametrize(
    ("header", "loops"),
    [
        (b"Delivered-To: ann@example.test\r\n", True),
        (b"delivered-to:  <ANN@Example.TEST> \r\n", True),
        (b"Delivered-To: other@example.test\r\n", False),
        (b"Subject: Delivered-To: ann@example.test\r\n", False),
        (b"Delivered-To: \xff@example.test\r\n", False),
        (b"Received: x\r\n" * MAX_RECEIVED_FIELDS, False),
        (b"Received: x\r\n" * (MAX_RECEIVED_FIELDS + 1), True),
        (b"X-Received: x\r\n" * 500, False),
    ],
)
async def test_loops(host: MailHost, header: bytes, loops: bool) -> None:
    assert read_way(header).is_looping("ann@example.test") == loops
    ann, bob = await send(
        host,
        "ann@example.test",
        "bob@example.test",
        message=header + b"\r\nDelivered-To: ann@example.test\r\n",
    )
    assert isinstance(ann, MailLoop) == loops
    if b"ann" in header.lower():
        assert bob is None


async def test_only_loops_means_nothing_is_written(host: MailHost) -> None:
    await send(host, "ann@example.test", message=b"Delivered-To: ann@example.test\r\n\r\n")
    assert host.mail.calls == []
    assert host.intake.discarded == 1


def test_trace_headers_cannot_be_injected() -> None:
    hostile = replace(
        ENVELOPE,
        reverse_path='"a\r\nX-Evil: 1"@far.example',
        helo="x)\r\nX-Evil: 2 (",
        client_ip="",
    )
    lines = trace_headers(hostile, "ann\n@example.test", is_only_recipient=True).split(b"\r\n")
    assert [line.partition(b":")[0] for line in lines if line and not line.startswith(b"\t")] == [
        b"Return-Path",
        b"Delivered-To",
        b"Received",
    ]
    assert all(b"\n" not in line and b"\r" not in line for line in lines)


def test_null_path_and_unicode() -> None:
    text = trace_headers(replace(ENVELOPE, reverse_path=""), "bjørn@example.test", is_only_recipient=True)
    assert text.startswith("Return-Path: <>\r\nDelivered-To: bjørn@example.test\r\n".encode())


def test_key_fields_do_not_run_into_each_other() -> None:
    content = ContentHash(b"\0" * 32)

    def key(sender: str, account: int, detail: str) -> bytes:
        recipient = Recipient(AccountId(account), "p@example.test", MailboxId(1))
        return delivery_key(sender, Destination("x@example.test", detail, recipient), content)

    keys = [key("a", 1, ""), key("a1", 1, ""), key("a", 11, ""), key("a", 1, "1"), key("", 1, "a")]
    assert len(set(keys)) == 5
    assert all(len(each) == 32 for each in keys)
