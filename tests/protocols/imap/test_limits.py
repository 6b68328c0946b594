"""Time, memory and search limits as a client sees them: NO [LIMIT], and the session lives."""

from __future__ import annotations

import asyncio
import base64
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.imap import progress
from protocols.imap.searchpace import OPTION, SearchPace, SearchRate, TooManySearches
from protocols.memory import NodeMemory
from storage.model import AccountId
from tests.support.imap import ImapLab
from tests.support.looptime import pass_s
from tests.support.stuck import Stuck
from tests.support.waiting import until
from tests.support.wire import Wire

LIMIT_S = 60.0
LIMITS = dict.fromkeys(("SEARCH", "FETCH", "COPY", "MOVE", "STORE"), LIMIT_S)


def lab(messages: int = 2, **policy: Any) -> ImapLab:
    made = ImapLab(**policy)
    for number in range(messages):
        made.mail.deliver(body=b"Subject: number %d\r\n\r\nbody %d\r\n" % (number, number))
    return made


def stuck_lab(*hanging: str) -> tuple[ImapLab, Stuck]:
    made = lab(command_limits_s=LIMITS)
    stuck = Stuck(made.mail.store, passing_s=LIMIT_S + 1)
    made.watched.real = stuck
    stuck.hanging.update(hanging)
    return made, stuck


@pytest.mark.parametrize(
    ("command", "hanging"),
    [
        (b"SEARCH SUBJECT x", "fetch"),
        (b"UID SEARCH BODY x", "fetch"),
        (b"FETCH 1 ENVELOPE", "fetch"),
        (b"UID FETCH 1:* BODY.PEEK[]", "fetch"),
        (b"COPY 1 Archive", "copy"),
        (b"MOVE 1 Archive", "move"),
        (b"STORE 1 +FLAGS (\\Seen)", "store_flags"),
    ],
)
async def test_command_that_takes_too_long_is_ended_and_the_session_lives(
    command: bytes, hanging: str
) -> None:
    made, stuck = stuck_lab(hanging)
    await made.views.close_all()
    client = await made.log_in("INBOX")
    await client.send(b"c CREATE Archive\r\n")
    answer = await client.send(b"a " + command + b"\r\n")
    assert b"a NO [LIMIT] The command took too long" in answer
    assert stuck.cancelled == [hanging]
    stuck.hanging.clear()
    assert b"b OK" in await client.send(b"b FETCH 1 ENVELOPE\r\n")
    assert made.services.memory.used_bytes == 0


async def test_message_that_was_not_told_of_is_not_seen() -> None:
    """The database marked it; its body never came."""
    made, stuck = stuck_lab("fetch")
    client, other = await made.log_in("INBOX"), await made.log_in("INBOX")
    assert b"a NO [LIMIT]" in await client.send(b"a FETCH 1:2 BODY[]\r\n")
    stuck.hanging.clear()
    assert b"\\Seen" not in await other.send(b"n NOOP\r\nf FETCH 1:2 FLAGS\r\n")


async def test_client_that_reads_slowly_is_not_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(command_limits_s=LIMITS)
    made.mail.deliver(body=b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 250_000)
    client = await made.log_in("INBOX")
    client.transport.stall()
    client.feed(b"a FETCH 3 BODY.PEEK[]\r\n")
    await until(lambda: client.connection.peer_wait_s)
    monkeypatch.setattr("protocols.driver.perf_counter", lambda: perf_counter() + LIMIT_S + 1)
    pass_s(LIMIT_S + 1)
    for _ in range(10):
        await asyncio.sleep(0)
    client.transport.take()
    await client.settle()
    assert b"a OK" in client.received()


# --- progress -------------------------------------------------------------------------------------


async def test_long_search_and_copy_say_that_they_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    made, _stuck = stuck_lab("fetch", "copy")
    client = await made.log_in("INBOX")
    await client.send(b"c CREATE Archive\r\n")
    answer = await client.send(b"tag SEARCH SUBJECT x\r\n")
    assert b'* OK [INPROGRESS ("tag" 0 2)] Still at it\r\n' in answer
    answer = await client.send(b"tag2 COPY 1 Archive\r\n")
    assert b'* OK [INPROGRESS ("tag2" NIL NIL)] Still at it\r\n' in answer
    assert b"a OK" in await client.send(b"a NOOP\r\n")
    await asyncio.sleep(0.005)
    assert client.received() == b""


async def test_progress_counts_what_was_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(messages=120)
    client = await made.log_in("INBOX")
    seen: list[tuple[int, int] | None] = []
    session = made.sessions[0]

    async def breathe() -> None:
        seen.append(session.progress)

    monkeypatch.setattr("protocols.imap.commands.search.breathe", breathe)
    await client.send(b"a SEARCH SUBJECT x\r\n")
    assert seen == [(0, 120), (50, 120), (100, 120)]


async def test_it_is_announced() -> None:
    assert b" INPROGRESS " in await (await lab().connect()).send(b"a CAPABILITY\r\n")


# --- memory ---------------------------------------------------------------------------------------


def with_attachment(size: int) -> bytes:
    return (
        b"Subject: a\r\nMIME-Version: 1.0\r\nContent-Type: application/x\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(b"\0x" * (size // 2))
    )


async def attachment_lab(limit: int) -> tuple[ImapLab, Wire]:
    made = lab(session_memory_bytes=limit)
    made.mail.deliver(body=with_attachment(200_000))
    made.mail.deliver(body=b"Subject: after\r\n\r\nsmall\r\n")
    return made, await made.log_in("INBOX")


async def test_body_that_is_too_large_to_decode_is_left_out_and_the_others_go_on() -> None:
    made, client = await attachment_lab(300_000)
    answer = await client.send(b"a UID FETCH 1:4 BINARY[1]\r\n")
    assert b"* 3 FETCH (UID 3 BINARY" not in answer
    assert b"* 4 FETCH (UID 4 BINARY" in answer
    assert b"a NO [LIMIT]" in answer
    assert b"\\Seen" not in await client.send(b"b FETCH 3 FLAGS\r\n")
    assert b"c OK" in await client.send(b"c FETCH 3 BODY.PEEK[]\r\n")
    assert made.services.memory.refused == 1
    assert made.services.memory.used_bytes == 0


async def test_enough_memory_is_given_back() -> None:
    made, client = await attachment_lab(3_000_000)
    answer = await client.send(b"a FETCH 3 (BINARY.SIZE[1] BINARY[1])\r\n")
    assert b"a OK" in answer
    assert b"BINARY.SIZE[1] 200000 BINARY[1] ~{200000}\r\n" in answer
    assert made.services.memory.peak_bytes > 500_000
    assert made.services.memory.used_bytes == 0


async def test_node_that_is_full_refuses_for_now() -> None:
    made = lab()
    made.services.memory = NodeMemory(1_000)
    client = await made.log_in("INBOX")
    for command in (b"FETCH 1 ENVELOPE", b"SEARCH SUBJECT x"):
        answer = await client.send(b"a " + command + b"\r\n")
        assert b"a NO [LIMIT] That needs too much memory" in answer
    assert b"b OK" in await client.send(b"b FETCH 1 FLAGS\r\n")
    made.services.memory.total_bytes = None
    assert b"c OK" in await client.send(b"c FETCH 1 ENVELOPE\r\n")


async def test_vanished_clients_hold_nothing() -> None:
    made = lab()
    made.mail.deliver(body=b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 250_000)
    clients = [await made.log_in("INBOX") for _ in range(5)]
    for client in clients:
        client.transport.stall()
        client.feed(b"a FETCH 1:3 (ENVELOPE BODY.PEEK[])\r\n")
        for _ in range(10):
            await asyncio.sleep(0)
    assert made.services.memory.used_bytes > 0
    for client in clients:
        client.transport.vanish()
        await client.settle()
    assert made.services.memory.used_bytes == 0


# --- searches -------------------------------------------------------------------------------------

ANN = AccountId(1)


def test_pace_is_a_sliding_window_for_each_account() -> None:
    pace = SearchPace(SearchRate(3, 60.0))
    for now in (0.0, 10.0, 20.0):
        pace.begin(ANN, now)
    pace.begin(AccountId(2), 20.0)
    with pytest.raises(TooManySearches, match="in 35 seconds"):
        pace.begin(ANN, 25.0)
    pace.begin(ANN, 60.0)
    with pytest.raises(TooManySearches, match="in 9 seconds"):
        pace.begin(ANN, 61.5)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 30)), max_size=80))
def test_never_more_than_allowed_in_any_window(asked: list[tuple[int, float]]) -> None:
    pace = SearchPace(SearchRate(4, 60.0))
    now, begun = 0.0, list[tuple[int, float]]()
    for account, later in asked:
        now += later
        recent = sum(1 for a, at in begun if a == account and now - at < 60.0)
        try:
            pace.begin(AccountId(account), now)
        except TooManySearches:
            assert recent >= 4
        else:
            assert recent < 4
            begun.append((account, now))


def test_accounts_that_stopped_searching_are_forgotten() -> None:
    pace = SearchPace(SearchRate(1, 60.0))
    for number in range(20_000):
        pace.begin(AccountId(number), float(number))
    assert len(pace._begun) < 2_500


async def test_only_searches_that_read_messages_are_counted() -> None:
    pace = SearchPace(SearchRate(2, 60.0))

    async def limit(account: AccountId) -> None:
        pace.begin(account, 0.0)

    made = lab(options={OPTION: limit})
    client = await made.log_in("INBOX")
    for _ in range(5):
        assert b"a OK" in await client.send(b"a SEARCH UNSEEN\r\n")
    for _ in range(2):
        assert b"a OK" in await client.send(b"a SEARCH SUBJECT number\r\n")
    assert b"a NO [LIMIT] Too many searches" in await client.send(b"a SEARCH SUBJECT number\r\n")
    other = await made.log_in("INBOX")
    assert b"a NO [LIMIT]" in await other.send(b"a UID SEARCH RETURN (SAVE) SUBJECT number\r\n")
    assert b"a OK" in await other.send(b"a UID SEARCH UNSEEN\r\n")
