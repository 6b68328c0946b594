"""The pump in memory: order of handlers, back-pressure, deadlines, shutdown, faults."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc

import pytest

from protocols.connections import DriverLimits, LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.driver import LineConnection
from tests.support.echo import Sessions
from tests.support.wire import MemoryTransport, Wire


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


async def test_pipelined_commands_leave_in_one_write(sessions: Sessions) -> None:
    wire = Wire(sessions)
    await wire.settle()
    wire.feed(b"a\nb\nc\n")
    assert wire.transport.written == [b"hello\n", b"a\nb\nc\n"]


async def test_commands_wait_for_the_running_handler(sessions: Sessions) -> None:
    wire = Wire(sessions)
    await wire.settle()
    wire.feed(b"wait\nafter\n")
    wire.connection.wake()
    await asyncio.sleep(0)
    assert sessions.made[0].log == ["wait"]
    sessions.made[0].gate.set()
    await wire.settle()
    assert sessions.made[0].log == ["wait", "wait ended", "wake", "after"]
    assert wire.received() == b"hello\nwaited\nafter\n"


async def test_reading_stops_while_a_handler_runs_and_input_piles_up(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(read_limit_bytes=100))
    wire.feed(b"wait\n")
    wire.feed(b"a\n" * 40)
    assert not wire.transport.is_reading_paused
    wire.feed(b"a\n" * 40)
    assert wire.transport.is_reading_paused
    sessions.made[0].gate.set()
    await wire.settle()
    assert not wire.transport.is_reading_paused
    assert wire.received().count(b"a\n") == 80


async def test_client_that_pipelines_and_never_reads_costs_bounded_memory(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(write_high_bytes=50_000, read_limit_bytes=1000))
    wire.transport.stall()
    for _ in range(200):
        if not wire.transport.is_reading_paused:
            wire.feed(b"big\n" * 100)
        await asyncio.sleep(0)
    assert wire.transport.get_write_buffer_size() < 50_000 + 33 * 10_001
    assert wire.connection._machine.buffered_bytes <= 1400
    assert wire.transport.is_reading_paused
    wire.transport.take()
    await wire.settle()
    assert not wire.transport.is_reading_paused
    handled = sessions.made[0].log.count("big")
    assert wire.received().count(b"x" * 10_000) == handled > 100


async def test_session_that_wakes_itself_does_not_keep_the_loop(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(sessions)
    session = sessions.made[0]
    woken = []

    def on_wake() -> None:
        woken.append(1)
        if len(woken) < 1000:
            wire.connection.wake()

    monkeypatch.setattr(session, "on_wake", on_wake)
    wire.connection.wake()
    await asyncio.sleep(0)
    assert 0 < len(woken) < 1000
    await wire.settle()
    assert len(woken) == 1000


async def test_peer_that_goes_on_sending_after_the_end_is_cut_off_in_time(sessions: Sessions) -> None:
    wire = Wire(sessions)
    start = wire.live.wheel.now
    wire.feed(b"quit\nmore\n")
    assert wire.transport.is_half_closed
    assert not wire.transport.is_closing()
    wire.feed(b"and more\n")
    await wire.settle()
    assert wire.received() == b"hello\nbye\n"
    wire.live.wheel.advance(start + 32)
    await wire.settle()
    assert wire.transport.is_aborted
    assert sessions.made[0].log == ["quit", "close"]


async def test_one_turn_does_not_keep_the_loop_from_others(sessions: Sessions) -> None:
    wire = Wire(sessions)
    wire.feed(b"a\n" * 1000)
    assert 0 < sessions.made[0].log.count("a") < 1000
    await wire.settle()
    assert sessions.made[0].log.count("a") == 1000


async def test_drain_waits_for_the_reader_and_learns_that_it_left(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(write_high_bytes=50_000))
    wire.transport.stall()
    wire.feed(b"stream\n")
    for _ in range(50):
        await asyncio.sleep(0)
    assert wire.transport.get_write_buffer_size() < 70_000
    wire.transport.vanish()
    await wire.settle()
    assert sessions.made[0].stream_failed
    assert sessions.made[0].log == ["stream", "close"]
    assert len(wire.live) == 0


async def test_peer_that_never_reads_is_aborted_but_a_slow_one_is_not(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(write_high_bytes=50_000, write_timeout_s=300))
    wheel, start = wire.live.wheel, wire.live.wheel.now
    wire.transport.stall()
    wire.feed(b"stream\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    wheel.advance(start + 299)
    wire.transport.take(5_000)
    wheel.advance(start + 302)
    assert not wire.is_closed
    wheel.advance(start + 601)
    assert not wire.is_closed
    wheel.advance(start + 604)
    assert wire.transport.is_aborted
    assert wire.live.counts.stalled == 1
    await wire.settle()
    assert len(wire.live) == 0


async def test_last_reply_that_nobody_reads_does_not_hold_the_connection(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(close_timeout_s=30))
    start = wire.live.wheel.now
    wire.transport.stall()
    wire.feed(b"quit\n")
    await wire.settle()
    assert len(wire.live) == 1
    wire.live.wheel.advance(start + 32)
    await wire.settle()
    assert len(wire.live) == 0


async def test_running_handler_finishes_before_on_close(sessions: Sessions) -> None:
    wire = Wire(sessions)
    wire.feed(b"wait\n")
    wire.transport.vanish()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sessions.made[0].log == ["wait"]
    sessions.made[0].gate.set()
    await wire.settle()
    assert sessions.made[0].log == ["wait", "wait ended", "close"]


async def test_handler_that_outlives_its_peer_is_cancelled_after_a_grace(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(finish_timeout_s=60))
    start = wire.live.wheel.now
    wire.feed(b"wait\n")
    wire.transport.vanish()
    await asyncio.sleep(0)
    wire.live.wheel.advance(start + 58)
    await asyncio.sleep(0)
    assert sessions.made[0].log == ["wait"]
    wire.live.wheel.advance(start + 63)
    await wire.settle()
    assert sessions.made[0].log == ["wait", "close"]
    assert len(wire.live) == 0


@pytest.mark.parametrize("command", [b"bug\n", b"latebug\n"])
async def test_bug_is_reported_logged_and_ends_only_this_connection(
    sessions: Sessions, command: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(sessions)
    with caplog.at_level(logging.ERROR):
        reply = await wire.send(command + b"never\n")
    identity = wire.connection.session_id
    assert reply == b"hello\nbug " + identity.encode() + b"\n"
    assert [each.__dict__["fields"]["session"] for each in caplog.records] == [identity]
    assert "secret detail" in caplog.text
    await wire.hang_up()
    assert sessions.made[0].log == [command.decode().strip(), "close"]
    assert wire.live.counts.bugs == 1


async def test_idle_deadline_restarts_with_reads(sessions: Sessions) -> None:
    wire = Wire(sessions)
    wire.feed(b"deadline\n")
    start = wire.connection._touched_at
    wire.live.wheel.advance(start + 4)
    assert not wire.is_closed
    wire.connection._touched_at = start + 4  # a read four seconds later
    wire.live.wheel.advance(start + 6.5)
    assert not wire.is_closed
    wire.live.wheel.advance(start + 10.5)
    assert wire.received().endswith(b"timeout\n")
    await wire.settle()
    assert sessions.made[0].log == ["deadline", "close"]


async def test_running_handler_is_not_idle(sessions: Sessions) -> None:
    wire = Wire(sessions)
    wire.feed(b"deadline\nwait\n")
    wire.live.wheel.advance(wire.connection._touched_at + 100)
    assert not wire.is_closed
    sessions.made[0].gate.set()
    await wire.settle()
    assert not wire.is_closed


async def test_half_closed_peer_gets_its_replies(sessions: Sessions) -> None:
    wire = Wire(sessions)
    wire.feed(b"wait\nlast\n")
    assert wire.connection.eof_received()
    sessions.made[0].gate.set()
    await wire.settle()
    assert wire.received() == b"hello\nwaited\nlast\n"
    assert sessions.made[0].log[-1] == "close"


async def test_shutdown_lets_commands_finish_and_then_says_goodbye(sessions: Sessions) -> None:
    wire = Wire(sessions)
    idle = Wire(sessions, live=wire.live)
    wire.feed(b"wait\n")
    shutdown = asyncio.ensure_future(wire.live.shutdown(grace_s=60))
    await idle.settle()
    assert idle.received() == b"hello\ndown\n"
    assert wire.received() == b"hello\n"
    sessions.made[0].gate.set()
    assert await shutdown == 0
    assert wire.received() == b"waited\ndown\n"


async def test_shutdown_does_not_wait_long_for_peers_that_are_asleep(sessions: Sessions) -> None:
    asleep = Wire(sessions, limits=DriverLimits(goodbye_timeout_s=0.01))
    asleep.transport.stall()
    working = Wire(sessions, live=asleep.live)
    working.feed(b"wait\n")
    shutdown = asyncio.ensure_future(asleep.live.shutdown(grace_s=3600))
    async with asyncio.timeout(60):
        while len(asleep.live) == 2:
            await asyncio.sleep(0)
    assert asleep.transport.is_aborted
    assert not working.transport.is_aborted
    sessions.made[1].gate.set()
    assert await shutdown == 0
    assert working.received() == b"hello\nwaited\ndown\n"


async def test_shutdown_aborts_what_does_not_end(sessions: Sessions) -> None:
    wire = Wire(sessions, limits=DriverLimits(finish_timeout_s=0.01))
    wire.feed(b"wait\n")
    assert await wire.live.shutdown(grace_s=0.01) == 1
    assert wire.transport.is_aborted
    sessions.made[0].gate.set()
    await wire.settle()
    assert len(wire.live) == 0


async def test_on_close_happens_once_whatever_ends_it(sessions: Sessions) -> None:
    wire = Wire(sessions)
    await wire.send(b"quit\n")
    wire.connection.connection_lost(None)
    wire.connection.close()
    wire.connection.wake()
    await wire.settle()
    assert sessions.made[0].log == ["quit", "close"]


async def test_idle_session_is_small(sessions: Sessions) -> None:
    """What a connection costs us beside its transport; the budget is 8 KiB."""
    live = LiveConnections(DeadlineWheel(asyncio.get_running_loop()))
    transports = [MemoryTransport() for _ in range(300)]
    connections = [LineConnection(sessions, live) for _ in transports[:100]]
    for connection, transport in zip(connections, transports, strict=False):
        transport.connect(connection)  # whatever is made once is made now
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for transport in transports[100:]:
        connections.append(LineConnection(sessions, live))
        transport.connect(connections[-1])
        connections[-1].data_received(b"deadline\n")
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (after - before) / 200 < 4096


def test_wheel_asks_late_never_early_and_forgets_the_cancelled() -> None:
    class Item:
        wheel_slot = 0

        def __init__(self, again: float | None = None) -> None:
            self.again, self.asked = again, list[float]()

        def on_due(self, now: float) -> float | None:
            self.asked.append(now)
            return self.again

    loop = asyncio.new_event_loop()
    try:
        wheel = DeadlineWheel(loop)
        once, repeated, cancelled = Item(), Item(again=20.0), Item()
        for item in (once, repeated, cancelled):
            wheel.schedule(item, 10.2)
        wheel.cancel(cancelled)
        wheel.schedule(once, 50)  # later than it has: ignored
        wheel.advance(10.9)
        assert once.asked == []
        wheel.advance(11.0)
        wheel.advance(19.9)
        wheel.advance(25.0)
        assert (once.asked, repeated.asked, cancelled.asked) == ([11.0], [11.0, 25.0], [])
    finally:
        loop.close()
