"""POP3 conversations against counting stores: transcripts, lock, budgets, big and broken messages."""

from __future__ import annotations

import asyncio
import poplib
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.connections import DriverLimits, LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.driver import LineConnection
from protocols.errors import AuthenticationUnavailable
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy, SessionFactory
from storage.errors import CommitUnknown, Corrupt, Unavailable
from tests.protocols.pop3.conftest import MESSAGES
from tests.support.mailhost import MailHost, mail_host
from tests.support.pop3 import message_of
from tests.support.wire import Wire, play

TRANSCRIPTS = sorted((Path(__file__).parents[2] / "transcripts" / "pop3").glob("*.txt"))
LOGIN = b"USER ann@example.test\r\nPASS secret\r\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_transcript(path: Path, factory: SessionFactory) -> None:
    await play(factory, path.read_text())


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 4


async def logged_in(factory: SessionFactory, **options: object) -> Wire:
    wire = Wire(factory, **options)  # type: ignore[arg-type]
    assert b"messages" in await wire.send(LOGIN)
    return wire


# --- budgets and content ------------------------------------------------------------------------------


async def test_session_costs_one_read_for_the_maildrop_and_one_write_at_quit(
    host: MailHost, factory: SessionFactory
) -> None:
    await host.put(*(b"Subject: %d\r\n\r\nx\r\n" % n for n in range(97)))
    wire = await logged_in(factory)
    assert host.mail.calls == ["load_named_view"]
    await wire.send(b"STAT\r\nLIST\r\nUIDL\r\nNOOP\r\n")
    for number in range(1, 101):
        await wire.send(b"RETR %d\r\n" % number)
    await wire.send(b"".join(b"DELE %d\r\n" % n for n in range(1, 101)))
    assert await wire.send(b"QUIT\r\n") == b"+OK Bye\r\n"
    assert host.mail.calls == ["load_named_view", "fetch", "remove"]
    assert host.bodies.prefetched == [100]
    assert await host.inbox() == []
    assert len(host.feed.published) == 1


async def test_headers_never_touch_a_body(host: MailHost, factory: SessionFactory) -> None:
    wire = await logged_in(factory)
    for number in (1, 2, 3):
        await wire.send(b"TOP %d 0\r\n" % number)
    assert host.bodies.opened == 0
    assert host.mail.calls == ["load_named_view", "fetch"]


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 1000])
async def test_messages_come_back_byte_for_byte(
    host: MailHost, factory: SessionFactory, piece_bytes: int
) -> None:
    host.bodies.piece_bytes = piece_bytes
    await host.put(b"X: 1\r\n\r\n.\r\n..\r\n\r\n.a\n.\n\r.\r\r\n.", b".", b"", b"\r\n", b"\xff\x00\r\n.")
    wire = await logged_in(factory)
    for number, stored in enumerate(await host.inbox(), start=1):
        content = message_of(await wire.send(b"RETR %d\r\n" % number))
        assert content in (stored.octets, stored.octets + b"\r\n")
        assert content == stored.octets or not stored.octets.endswith(b"\r\n")


@pytest.mark.parametrize("piece_bytes", [1, 4, 1000])
async def test_top_cuts_after_so_many_lines(
    host: MailHost, factory: SessionFactory, piece_bytes: int
) -> None:
    host.bodies.piece_bytes = piece_bytes
    wire = await logged_in(factory)
    for lines in range(6):
        body = MESSAGES[1].partition(b"\r\n\r\n")[2].splitlines(keepends=True)[:lines]
        expected = b"Subject: two\r\n\r\n" + b"".join(body)
        assert message_of(await wire.send(b"TOP 2 %d\r\n" % lines)) == expected


async def test_prefix_counts_and_is_sent(host: MailHost, factory: SessionFactory) -> None:
    await host.put(MESSAGES[0], prefix=b"Return-Path: <a@b.example>\r\n")
    wire = await logged_in(factory)
    reply = await wire.send(b"RETR 4\r\n")
    assert message_of(reply) == b"Return-Path: <a@b.example>\r\n" + MESSAGES[0]
    assert reply.startswith(b"+OK %d octets" % (len(MESSAGES[0]) + 28))
    assert message_of(await wire.send(b"TOP 4 1\r\n")) == message_of(reply)


async def test_large_maildrop_is_listed_in_blocks(host: MailHost, factory: SessionFactory) -> None:
    await host.put(*[b"x\r\n"] * 2500)
    wire = await logged_in(factory)
    lines = (await wire.send(b"UIDL\r\nLIST\r\n")).split(b"\r\n")
    assert len(lines) == 2 * 2505 + 1
    assert lines[2503] == b"2503 7.2503"
    assert len(wire.transport.written[-1]) < 40_000


async def test_slow_reader_of_a_large_message_costs_bounded_memory(
    host: MailHost, factory: SessionFactory
) -> None:
    host.bodies.piece_bytes = 10_000
    await host.put(b"Subject: big\r\n\r\n" + b"0123456789abcde\r\n" * 200_000)
    wire = await logged_in(factory, limits=DriverLimits(write_high_bytes=50_000))
    wire.transport.stall()
    wire.feed(b"RETR 4\r\nNOOP\r\n")
    for _ in range(200):
        await asyncio.sleep(0)
        assert wire.transport.get_write_buffer_size() < 90_000
    wire.transport.take()
    await wire.settle()
    output = wire.received()
    assert output.endswith(b".\r\n+OK Nothing done\r\n")
    assert len(output) > 3_400_000


# --- trouble ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reply"),
    [(Unavailable("s3"), b"-ERR [SYS/TEMP]"), (Corrupt("hash"), b"-ERR [SYS/PERM]")],
)
async def test_body_that_cannot_be_had_is_never_empty(
    host: MailHost, factory: SessionFactory, fault: Exception, reply: bytes
) -> None:
    wire = await logged_in(factory)
    host.bodies.faults = [fault]
    assert (await wire.send(b"RETR 1\r\n")).startswith(reply)
    host.mail.faults["fetch"] = [Unavailable("db")]
    assert (await wire.send(b"TOP 1 1\r\n")).startswith(b"-ERR [SYS/TEMP]")
    assert message_of(await wire.send(b"RETR 1\r\n")) == MESSAGES[0]


async def test_message_removed_by_another_session_meanwhile(host: MailHost, factory: SessionFactory) -> None:
    wire = await logged_in(factory)
    await host.take_out(1)
    assert (await wire.send(b"RETR 1\r\n")).startswith(b"-ERR [SYS/TEMP]")
    assert message_of(await wire.send(b"RETR 2\r\n")) == MESSAGES[1]


async def test_body_that_breaks_off_ends_without_the_final_dot(
    host: MailHost, factory: SessionFactory
) -> None:
    host.bodies.piece_bytes = 5
    host.bodies.fault_after = 3
    wire = await logged_in(factory)
    output = await wire.send(b"RETR 2\r\nNOOP\r\n")
    assert output.startswith(b"+OK")
    assert not output.endswith(b".\r\n")
    assert b"Nothing done" not in output
    assert wire.is_closed


async def test_wrong_size_is_damage(host: MailHost, factory: SessionFactory) -> None:
    wire = await logged_in(factory)
    await wire.send(b"RETR 1\r\n")
    host.damage_bodies()
    assert (await wire.send(b"RETR 2\r\n")).startswith(b"-ERR [SYS/PERM]")


@pytest.mark.parametrize(
    ("fault", "reply"),
    [(AuthenticationUnavailable(), b"-ERR [SYS/TEMP]"), (None, b"-ERR [AUTH]")],
)
async def test_failed_login_and_unavailable_login_differ(
    host: MailHost, factory: SessionFactory, fault: Exception | None, reply: bytes
) -> None:
    wire = Wire(factory)
    host.passwords.faults = [fault] if fault else []
    password = b"secret" if fault else b"guess"
    output = await wire.send(b"USER ann@example.test\r\nPASS " + password + b"\r\n")
    assert output.split(b"\r\n")[-2].startswith(reply)
    assert (await wire.send(LOGIN)).endswith(b"octets)\r\n")


async def test_maildrop_that_cannot_be_loaded_is_unlocked_again(
    host: MailHost, factory: SessionFactory
) -> None:
    host.mail.faults["load_named_view"] = [Unavailable("db")]
    wire = Wire(factory)
    assert b"-ERR [SYS/TEMP]" in await wire.send(LOGIN)
    assert b"octets)" in await wire.send(LOGIN)


async def test_only_one_session_has_the_maildrop(host: MailHost, factory: SessionFactory) -> None:
    first = await logged_in(factory)
    second = Wire(factory)
    assert b"-ERR [IN-USE]" in await second.send(LOGIN)
    other = await second.send(b"USER bob@example.test\r\nPASS secret\r\n")
    assert b"+OK 0 messages" in other
    await first.send(b"QUIT\r\n")
    third = await logged_in(factory)
    third.transport.vanish()
    await third.settle()
    await logged_in(factory)


async def test_nothing_is_removed_without_quit(host: MailHost, factory: SessionFactory) -> None:
    wire = await logged_in(factory)
    await wire.send(b"DELE 1\r\nDELE 2\r\n")
    await wire.hang_up()
    wire = await logged_in(factory)
    await wire.send(b"DELE 1\r\n")
    wire.live.wheel.advance(wire.live.wheel.now + 599)
    assert not wire.is_closed
    wire.live.wheel.advance(wire.live.wheel.now + 602)
    assert wire.is_closed
    assert wire.received() == b""
    assert len(await host.inbox()) == len(MESSAGES)


async def test_unmarked_messages_stay(host: MailHost, factory: SessionFactory) -> None:
    wire = await logged_in(factory)
    await wire.send(b"DELE 1\r\nRSET\r\nDELE 3\r\nQUIT\r\n")
    assert [message.uid for message in await host.inbox()] == [1, 2]


@pytest.mark.parametrize(
    ("faults", "reply", "left"),
    [
        ([Unavailable("db")], b"-ERR [SYS/TEMP]", 3),
        ([CommitUnknown("lost")], b"+OK Bye", 2),
        ([CommitUnknown("lost"), Unavailable("db")], b"-ERR [SYS/TEMP]", 3),
    ],
)
async def test_removal_that_fails(
    host: MailHost, factory: SessionFactory, faults: list[BaseException], reply: bytes, left: int
) -> None:
    wire = await logged_in(factory)
    host.mail.faults["remove"] = faults
    assert (await wire.send(b"DELE 1\r\nQUIT\r\n")).split(b"\r\n")[1].startswith(reply)
    assert wire.is_closed
    assert len(await host.inbox()) == left


async def test_ten_failed_logins_end_the_connection(factory: SessionFactory) -> None:
    wire = Wire(factory)
    output = await wire.send(b"USER ann@example.test\r\nPASS x\r\n" * 12)
    assert output.count(b"[AUTH]") == 10
    assert wire.is_closed


async def test_passwords_need_tls(host: MailHost, locks: LocalMaildropLock) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    policy = ServerPolicy(name="pop3", hostname="h", tls_context=lambda: context)
    factory = pop3_sessions(host.services, policy, locks)
    clear = Wire(factory)
    capabilities = (await clear.send(b"CAPA\r\n")).split(b"\r\n")
    assert b"STLS" in capabilities
    assert b"USER" not in capabilities
    assert not any(line.startswith(b"SASL") for line in capabilities)
    for attempt in (LOGIN, b"AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0\r\n"):
        assert (await clear.send(attempt)).startswith(b"-ERR [AUTH] Passwords need TLS")
    assert host.passwords.asked == []
    for options in ({"has_tls": True}, {"peer": ("127.0.0.1", 1)}, {"peer": ("::ffff:127.0.0.1", 1)}):
        wire = Wire(factory, **options)
        capabilities = (await wire.send(b"CAPA\r\n")).split(b"\r\n")
        assert b"SASL PLAIN" in capabilities
        assert (b"STLS" in capabilities) != ("has_tls" in options)
        assert b"octets)" in await wire.send(LOGIN)
        await wire.send(b"QUIT\r\n")


async def test_shutdown_and_bug(host: MailHost, factory: SessionFactory) -> None:
    wire = await logged_in(factory)
    await wire.live.shutdown(grace_s=1)
    assert wire.received().startswith(b"-ERR [SYS/TEMP] Server is going down")
    wire = await logged_in(factory)
    host.mail.faults["fetch"] = [RuntimeError("boom")]
    assert b"-ERR [SYS/TEMP] Server bug, logged with session 1" in await wire.send(b"RETR 1\r\n")
    assert wire.is_closed


LINES = st.sampled_from(
    [
        LOGIN,
        b"STAT\r\n",
        b"LIST\r\n",
        b"RETR 1\r\n",
        b"RETR 9\r\n",
        b"TOP 2 1\r\n",
        b"DELE 1\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"CAPA\r\n",
        b"AUTH PLAIN\r\n",
        b"*\r\n",
        b"UIDL\r\n",
        b"STLS\r\n",
        b"\n",
        b"\r",
        b"\xff\r\n",
    ]
)


@given(st.lists(LINES | st.binary(max_size=8), max_size=15), st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_is_sent_no_bug_and_the_lock_is_released(pieces: list[bytes], is_broken: bool) -> None:
    async def scenario() -> None:
        host = await mail_host()
        await host.put(*MESSAGES)
        if is_broken:
            host.bodies.faults = [Unavailable("s3")]
            host.mail.faults["remove"] = [Unavailable("db")]
        locks = LocalMaildropLock()
        policy = ServerPolicy(name="pop3", hostname="h", insecure_auth=True)
        wire = Wire(pop3_sessions(host.services, policy, locks))
        for piece in pieces:
            await wire.send(piece)
        await wire.hang_up()
        assert wire.live.counts.bugs == 0
        assert len(wire.live) == 0
        assert not locks._held

    asyncio.run(scenario())


async def test_standard_library_client_over_a_socket(host: MailHost, factory: SessionFactory) -> None:
    loop = asyncio.get_running_loop()
    live = LiveConnections(DeadlineWheel(loop))
    server = await loop.create_server(lambda: LineConnection(factory, live), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def conversation() -> list[bytes]:
        client = poplib.POP3("127.0.0.1", port, timeout=60)
        client.user("ann@example.test")
        client.pass_("secret")
        lines = client.retr(2)[1]
        client.dele(2)
        client.quit()
        return lines

    lines = await asyncio.to_thread(conversation)
    server.close()
    assert b"\r\n".join(lines) + b"\r\n" == MESSAGES[1]
    assert len(await host.inbox()) == 2
