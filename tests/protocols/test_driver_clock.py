"""Session time, speed and goodbyes in the pump, with the wheel's clock in the test's hand."""

from __future__ import annotations

import asyncio

import pytest

from protocols.clock import ClockSettings
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.ports import Goodbye
from tests.support.clockwork import HandClock
from tests.support.echo import Sessions
from tests.support.wire import Wire


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def wire_with(sessions: Sessions, hand: HandClock, clock: ClockSettings) -> Wire:
    live = LiveConnections(hand.wheel(), clock=clock)
    return Wire(sessions, live=live)


LIMITED = ClockSettings(session_s=1800, min_bytes_per_minute=1024)


async def test_session_time_ends_between_commands(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    hand.pass_s(1790)
    assert await wire.send(b"a\n") == b"hello\na\n"
    hand.pass_s(12)
    await wire.settle()
    assert wire.received() == b"expired\n"
    assert wire.is_closed
    assert wire.live.counts.expired == 1
    assert len(wire.live) == 0


async def test_running_command_outlives_the_session_time(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    wire.feed(b"wait\n")
    hand.pass_s(4000)
    assert not wire.is_closed
    sessions.made[0].gate.set()
    await wire.settle()
    assert wire.received() == b"hello\nwaited\nexpired\n"


async def test_input_that_makes_progress_is_let_to_its_end(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    wire.received()
    for _ in range(2400):
        wire.feed(b"x" * 100)
        hand.pass_s(1)
    assert not wire.is_closed
    assert (await wire.send(b"\n")).endswith(b"xx\nexpired\n")


async def test_endless_input_ends_when_the_time_is_over_twice(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    wire.received()
    for _ in range(3605):
        wire.feed(b"x" * 100)
        hand.pass_s(1)
    assert wire.received() == b"expired\n"
    assert wire.is_closed


async def test_idling_is_not_session_time(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    assert await wire.send(b"idle\n") == b"hello\nidle\n"
    hand.pass_s(100_000)
    wire.feed(b"do")  # half a line, for an hour: nothing is owed
    hand.pass_s(3600)
    assert await wire.send(b"ne\n") == b"done\n"
    hand.pass_s(1790)
    assert not wire.is_closed
    hand.pass_s(15)
    assert wire.received() == b"expired\n"


@pytest.mark.parametrize("already", [b"", b"a\nb\nc\n"])
async def test_stalled_line_ends_after_two_minutes(
    sessions: Sessions, hand: HandClock, already: bytes
) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    await wire.send(already + b"half a li")
    wire.received()
    hand.pass_s(118)
    assert not wire.is_closed
    hand.pass_s(5)
    assert wire.received() == b"too_slow\n"
    await wire.hang_up()
    assert len(wire.live) == 0
    assert wire.live.counts.too_slow == 1


async def test_one_byte_a_second_ends_too(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    wire.received()
    for _ in range(119):
        wire.feed(b"x")
        hand.pass_s(1)
    assert not wire.is_closed
    for _ in range(4):
        wire.feed(b"x")
        hand.pass_s(1)
    assert wire.received() == b"too_slow\n"


async def test_input_that_waits_for_us_is_no_debt(sessions: Sessions, hand: HandClock) -> None:
    """Pipelined behind a slow command, and half a line with it."""
    wire = wire_with(sessions, hand, LIMITED)
    wire.received()
    wire.feed(b"wait\na\nhalf")
    hand.pass_s(600)
    assert not wire.is_closed
    sessions.made[0].gate.set()
    await wire.settle()
    hand.pass_s(100)
    assert await wire.send(b"\n") == b"waited\na\nhalf\n"


async def test_clients_that_read_slowly_owe_nothing(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    wire.transport.stall()
    wire.feed(b"big\n" * 100 + b"half")
    for _ in range(10):
        hand.pass_s(60)
        wire.transport.take(5_000)
    assert not wire.is_closed
    wire.transport.take()
    await wire.settle()
    hand.pass_s(60)
    assert (await wire.send(b"\n")).endswith(b"half\n")


@pytest.mark.parametrize(("bytes_a_second", "stays"), [(0, False), (16, False), (18, True)])
async def test_clients_that_read_too_slowly_are_cut(
    sessions: Sessions, hand: HandClock, bytes_a_second: int, stays: bool
) -> None:
    """One octet now and then would hold our memory for ever."""
    wire = wire_with(sessions, hand, LIMITED)
    wire.transport.stall()
    wire.feed(b"stream\n")
    for _ in range(3):
        await asyncio.sleep(0)
    for _ in range(700):
        wire.transport.take(bytes_a_second)
        hand.pass_s(1)
    assert wire.transport.is_aborted is not stays


async def test_kick_says_goodbye_at_once(sessions: Sessions, hand: HandClock) -> None:
    wire = wire_with(sessions, hand, LIMITED)
    wire.received()
    wire.connection.say_goodbye(Goodbye.KICKED, within_s=5)
    await wire.settle()
    assert wire.received() == b"kicked\n"
    assert sessions.made[0].log == ["close"]


async def test_kick_waits_for_the_running_command_but_not_for_long(
    sessions: Sessions, hand: HandClock
) -> None:
    wire, other = wire_with(sessions, hand, LIMITED), wire_with(sessions, hand, LIMITED)
    wire.feed(b"wait\n")
    wire.connection.say_goodbye(Goodbye.KICKED, within_s=5)
    sessions.made[0].gate.set()
    await wire.settle()
    assert wire.received() == b"hello\nwaited\nkicked\n"
    other.feed(b"wait\n")
    other.connection.say_goodbye(Goodbye.KICKED, within_s=0.0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert other.transport.is_aborted
    assert sessions.made[1].log == ["wait"]  # what it does in storage it may finish
    sessions.made[1].gate.set()
    await other.settle()
    assert sessions.made[1].log == ["wait", "wait ended", "close"]


async def test_bytes_are_counted_per_connection(sessions: Sessions) -> None:
    wire = Wire(sessions, live=LiveConnections(DeadlineWheel(asyncio.get_running_loop())))
    await wire.send(b"abc\nd\n")
    assert (wire.connection.bytes_in, wire.connection.bytes_out) == (6, len(b"hello\nabc\nd\n"))
