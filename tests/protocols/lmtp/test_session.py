"""LMTP conversations against counting stores: transcripts, budgets, limits, faults."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.connections import DriverLimits
from protocols.lmtp.session import MAX_RECIPIENTS, lmtp_sessions
from protocols.ports import ServerPolicy, SessionFactory
from storage.errors import CommitUnknown, OverQuota, StagingFull, Unavailable
from tests.support.mailhost import NOW, MailHost, mail_host
from tests.support.wire import Wire, play

TRANSCRIPTS = sorted((Path(__file__).parents[2] / "transcripts" / "lmtp").glob("*.txt"))
HEAD = b"LHLO mx.example.test\r\nMAIL FROM:<from@far.example>\r\n"
MESSAGE = b"Subject: hi\r\n\r\nbody\r\n"


def rcpt(*users: bytes) -> bytes:
    return b"".join(b"RCPT TO:<%s@example.test>\r\n" % user for user in users)


def last_lines(output: bytes, count: int) -> list[bytes]:
    return output.split(b"\r\n")[-1 - count : -1]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_transcript(path: Path, factory: SessionFactory) -> None:
    await play(factory, path.read_text())


def test_there_are_transcripts() -> None:
    assert TRANSCRIPTS


async def test_message_is_stored_byte_for_byte_behind_its_trace(
    host: MailHost, factory: SessionFactory
) -> None:
    body = b"Subject: caf\xe9\r\n\r\nbare\nlf bare\rcr nul\x00 \xff\r\n..dots\r\nno end"
    wire = Wire(factory)
    await wire.send(HEAD + rcpt(b"ann") + b"DATA\r\n")
    output = await wire.send_bytewise(body.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
    assert output == b"250 2.0.0 Delivered\r\n"
    (stored,) = await host.inbox()
    assert stored.content == body + b"\r\n"
    assert stored.prefix == (
        b"Return-Path: <from@far.example>\r\n"
        b"Delivered-To: ann@example.test\r\n"
        b"Received: from mx.example.test ([192.0.2.7])\r\n"
        b"\tby mail.example.test with LMTP id 1\r\n"
        b"\tfor <ann@example.test>;\r\n"
        b"\tSun, 22 Nov 2026 12:00:00 +0000\r\n"
    )


async def test_budget_one_read_a_recipient_one_write_a_message(
    host: MailHost, factory: SessionFactory
) -> None:
    wire = Wire(factory)
    transaction = (
        b"MAIL FROM:<>\r\n" + rcpt(b"ann", b"ann+x", b"bob") + b"DATA\r\n",
        MESSAGE + b".\r\n",
    )
    await wire.send(b"LHLO x\r\n")
    for part in transaction:
        await wire.send(part)
    assert host.accounts.calls == ["recipient"] * 2
    assert host.mail.calls == ["append"]
    assert host.intake.taken == 1
    for part in transaction:
        output = await wire.send(part)
    assert host.accounts.calls == ["recipient"] * 2
    assert host.mail.calls == ["append"] * 2
    assert output == b"250 2.0.0 Delivered\r\n" * 3
    assert (len(await host.inbox()), len(await host.inbox("bob@example.test"))) == (2, 1)


async def test_known_recipients_are_forgotten_after_a_while(host: MailHost, policy: ServerPolicy) -> None:
    clock = [100.0]
    wire = Wire(lmtp_sessions(host.services, policy, clock=lambda: clock[0], now=lambda: NOW))
    await wire.send(HEAD + rcpt(b"ann", b"ann", b"ann+y"))
    assert len(host.accounts.calls) == 1
    clock[0] += 11
    await wire.send(rcpt(b"ann"))
    assert len(host.accounts.calls) == 2


async def test_plus_addresses(host: MailHost, factory: SessionFactory) -> None:
    await host.add_account("with+plus@example.test")
    wire = Wire(factory)
    output = await wire.send(HEAD + rcpt(b"ANN+Lists", b"with+plus", b"nobody+x", b"+ann"))
    assert [line[:3] for line in last_lines(output, 4)] == [b"250", b"250", b"550", b"550"]


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (b'"ann"@example.test', b"250"),
        (b'"a b"@example.test', b"550"),
        (b"ann", b"550"),
        (b"ann@EXAMPLE.test", b"250"),
    ],
)
async def test_recipient_spellings(factory: SessionFactory, address: bytes, code: bytes) -> None:
    wire = Wire(factory)
    assert last_lines(await wire.send(HEAD + b"RCPT TO:<" + address + b">\r\n"), 1)[0].startswith(code)


async def test_recipient_limit_keeps_those_accepted(host: MailHost, factory: SessionFactory) -> None:
    wire = Wire(factory)
    output = await wire.send(HEAD + b"".join(rcpt(b"ann+%d" % n) for n in range(MAX_RECIPIENTS + 1)))
    assert last_lines(output, 2) == [
        b"250 2.1.5 Recipient ok",
        b"452 4.5.3 Too many recipients in one transaction",
    ]
    await wire.send(b"DATA\r\n")
    assert (await wire.send(MESSAGE + b".\r\n")).count(b"250 2.0.0 Delivered\r\n") == MAX_RECIPIENTS
    assert host.mail.calls == ["append"]


async def test_replies_come_in_the_order_of_the_recipients(host: MailHost, factory: SessionFactory) -> None:
    wire = Wire(factory)
    users = [b"nobody%d" % n if n % 3 else b"ann+%d" % n for n in range(150)]
    replies = last_lines(await wire.send(HEAD + rcpt(*users) + b"DATA\r\n"), 151)
    assert [line[:3] for line in replies] == [*(b"550" if n % 3 else b"250" for n in range(150)), b"354"]
    assert (await wire.send(MESSAGE + b".\r\nNOOP\r\n")).count(b"250 2.0.0 Delivered\r\n") == 50
    assert len(await host.inbox()) == 50


async def test_postmaster_needs_no_domain(host: MailHost, factory: SessionFactory) -> None:
    """RFC 5321 §4.1.1.3."""
    await host.add_account("postmaster@mail.example.test")
    wire = Wire(factory)
    output = await wire.send(HEAD + b"RCPT TO:<Postmaster>\r\nDATA\r\n" + MESSAGE + b".\r\n")
    assert last_lines(output, 1) == [b"250 2.0.0 Delivered"]
    assert len(await host.inbox("postmaster@mail.example.test")) == 1


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        (Unavailable("db"), b"451 4.3.0"),
        (OverQuota("full"), b"452 4.2.2"),
        (StagingFull("disk"), b"452 4.3.1"),
    ],
)
async def test_trouble_at_each_step_is_temporary_and_the_session_lives(
    host: MailHost, factory: SessionFactory, fault: Exception, reply: bytes
) -> None:
    wire = Wire(factory)
    host.accounts.faults["recipient"] = [fault]
    assert last_lines(await wire.send(HEAD + rcpt(b"ann")), 1)[0].startswith(reply)
    await wire.send(rcpt(b"ann") + b"DATA\r\n")
    host.intake.faults = [fault]
    assert (await wire.send(MESSAGE + b".\r\n")).startswith(reply)
    await wire.send(b"MAIL FROM:<>\r\n" + rcpt(b"ann", b"bob") + b"DATA\r\n")
    host.mail.faults["append"] = [fault]
    answers = last_lines(await wire.send(MESSAGE + b".\r\n"), 2)
    assert all(line.startswith(reply) for line in answers)
    assert host.intake.discarded == 1
    await wire.send(b"MAIL FROM:<>\r\n" + rcpt(b"ann") + b"DATA\r\n")
    assert await wire.send(MESSAGE + b".\r\n") == b"250 2.0.0 Delivered\r\n"
    assert len(await host.inbox()) == 1


async def test_message_over_the_limit_is_read_to_its_end_and_refused(
    host: MailHost, factory: SessionFactory
) -> None:
    wire = Wire(factory)
    await wire.send(HEAD + rcpt(b"ann", b"bob") + b"DATA\r\n")
    for _ in range(20):
        assert await wire.send(b"x" * 998 + b"\r\n") == b""
    assert host.intake.open_spools == 0
    assert await wire.send(b".\r\nNOOP\r\n") == b"552 5.3.4 Message too big\r\n" * 2 + b"250 2.0.0 Ok\r\n"
    assert await host.inbox() == []


async def test_chunk_over_the_limit_ends_the_transaction(host: MailHost, factory: SessionFactory) -> None:
    wire = Wire(factory)
    await wire.send(HEAD + rcpt(b"ann"))
    output = await wire.send(b"BDAT 20000\r\n" + b"y" * 20_000 + b"BDAT 4 LAST\r\nQUITNOOP\r\n")
    assert output.split(b"\r\n")[:3] == [
        b"552 5.3.4 Message too big",
        b"503 5.5.1 Say MAIL first",
        b"250 2.0.0 Ok",
    ]
    assert host.intake.open_spools == 0


async def test_disk_full_while_receiving(host: MailHost, factory: SessionFactory) -> None:
    host.intake.room_bytes = 100
    wire = Wire(factory)
    await wire.send(HEAD + rcpt(b"ann") + b"DATA\r\n")
    assert await wire.send(b"z" * 2000 + b"\r\n.\r\n") == b"452 4.3.1 Out of storage; try again later\r\n"
    assert host.mail.calls == []


async def test_retry_after_a_lost_reply_makes_no_second_copy(host: MailHost, factory: SessionFactory) -> None:
    for _ in range(2):
        wire = Wire(factory)
        await wire.send(HEAD + rcpt(b"ann") + b"DATA\r\n")
        assert await wire.send(MESSAGE + b".\r\n") == b"250 2.0.0 Delivered\r\n"
    assert len(await host.inbox()) == 1
    assert len(host.feed.published) == 1


async def test_unknown_commit_is_read_back_before_the_reply(host: MailHost, factory: SessionFactory) -> None:
    wire = Wire(factory)
    host.mail.after["append"] = [CommitUnknown("lost")]
    await wire.send(HEAD + rcpt(b"ann") + b"DATA\r\n")
    assert await wire.send(MESSAGE + b".\r\n") == b"250 2.0.0 Delivered\r\n"
    host.mail.faults["append"] = [CommitUnknown("lost")]
    await wire.send(HEAD + rcpt(b"bob") + b"DATA\r\n")
    assert (await wire.send(MESSAGE + b".\r\n")).startswith(b"451 4.3.0")
    assert (len(await host.inbox()), len(await host.inbox("bob@example.test"))) == (1, 0)
    assert host.intake.discarded == 0


@pytest.mark.parametrize("is_after", [False, True])
async def test_nth_store_call_fails_for_every_n(policy: ServerPolicy, is_after: bool) -> None:
    """250 means stored; a fault is never a bounce; after the MTA's retries there is exactly one copy each."""
    nth = 0
    while True:
        nth += 1
        host = await mail_host()
        factory = lmtp_sessions(host.services, policy, now=lambda: NOW)
        plan = host.fail(nth, is_after=is_after)
        waiting = {"ann", "bob"}
        for _attempt in range(3):
            for user in await attempt(factory, sorted(waiting)):
                waiting.discard(user)
                assert len(await host.inbox(f"{user}@example.test")) == 1
        assert not waiting
        assert len(await host.inbox()) == len(await host.inbox("bob@example.test")) == 1
        if not plan.has_fired:
            break
    assert nth > 3


async def attempt(factory: SessionFactory, users: list[str]) -> list[str]:
    """What an MTA does; the users that got a 250 for the message."""
    wire = Wire(factory)
    await wire.send(HEAD)
    accepted = []
    for user in users:
        reply = await wire.send(rcpt(user.encode()))
        assert reply.startswith((b"2", b"4"))
        if reply.startswith(b"250"):
            accepted.append(user)
    await wire.send(b"DATA\r\n")
    replies = (await wire.send(MESSAGE + b".\r\n")).splitlines() if accepted else []
    assert all(reply.startswith((b"2", b"4")) for reply in replies)
    return [user for user, reply in zip(accepted, replies, strict=True) if reply.startswith(b"250")]


async def test_vanishing_client_leaves_nothing_open(host: MailHost, factory: SessionFactory) -> None:
    wire = Wire(factory)
    await wire.send(HEAD + rcpt(b"ann") + b"DATA\r\nhalf a message")
    assert host.intake.open_spools == 1
    await wire.hang_up()
    assert host.intake.open_spools == 0
    assert len(wire.live) == 0
    assert host.mail.calls == []


async def test_delivery_that_lost_its_client_still_commits(host: MailHost, factory: SessionFactory) -> None:
    wire = Wire(factory)
    await wire.send(HEAD + rcpt(b"ann") + b"DATA\r\n")
    wire.feed(MESSAGE + b".\r\n")
    wire.transport.vanish()
    await wire.settle()
    assert len(await host.inbox()) == 1
    assert len(wire.live) == 0


async def test_idle_client_is_told_and_closed(factory: SessionFactory) -> None:
    wire = Wire(factory)
    await wire.greeting()
    wire.live.wheel.advance(wire.live.wheel.now + 302)
    assert wire.received() == b"421 4.4.2 Idle for too long\r\n"
    assert wire.is_closed


async def test_shutdown(factory: SessionFactory) -> None:
    wire = Wire(factory)
    await wire.greeting()
    assert await wire.live.shutdown(grace_s=1) == 0
    assert wire.received() == b"421 4.3.2 Server is going down; try again soon\r\n"


async def test_bug_is_421_with_the_session_id(host: MailHost, factory: SessionFactory) -> None:
    host.accounts.faults["recipient"] = [RuntimeError("boom")]
    wire = Wire(factory)
    output = await wire.send(HEAD + rcpt(b"ann"))
    assert last_lines(output, 1) == [b"421 4.3.0 Server bug, logged with session 1; closing"]
    assert wire.is_closed


async def test_client_that_never_reads_is_bounded(factory: SessionFactory) -> None:
    wire = Wire(factory, limits=DriverLimits(read_limit_bytes=4096, write_high_bytes=8192))
    wire.transport.stall()
    for _ in range(300):
        if not wire.transport.is_reading_paused:
            wire.feed(b"HELP\r\n" * 200)
        await asyncio.sleep(0)
    assert wire.transport.is_reading_paused
    assert wire.transport.get_write_buffer_size() < 32_768


LINES = st.sampled_from(
    [
        b"LHLO x\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<ann@example.test>\r\n",
        b"RCPT TO:<nobody@example.test>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"BDAT 3\r\nabc",
        b"BDAT 3 LAST\r\nabc",
        b"RSET\r\n",
        b"STARTTLS\r\n",
        b"QUIT\r\n",
        b"BDAT\r\n",
        b"\x00\xff\r\n",
        b"\r",
        b"\n.\n",
    ]
)


@given(st.lists(LINES | st.binary(max_size=10), max_size=20), st.sets(st.integers(0, 5), max_size=3))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_is_sent_no_bug_and_nothing_stays_open(pieces: list[bytes], faults: set[int]) -> None:
    async def scenario() -> None:
        host = await mail_host()
        host.mail.faults["append"] = [Unavailable("x")] if 0 in faults else []
        host.accounts.faults["recipient"] = [Unavailable("x")] if 1 in faults else []
        policy = ServerPolicy(name="lmtp", hostname="h", max_message_bytes=10 if 2 in faults else 1000)
        wire = Wire(lmtp_sessions(host.services, policy, now=lambda: NOW))
        for piece in pieces:
            await wire.send(piece)
        await wire.hang_up()
        assert wire.live.counts.bugs == 0
        assert len(wire.live) == 0
        assert host.intake.open_spools == 0

    asyncio.run(scenario())
