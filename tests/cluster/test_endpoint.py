"""The endpoint on real sockets of the loopback, around an engine that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from cluster import exchange
from cluster.address import Address
from cluster.effects import Effect, Joined, NoticeHeard, OpenStream, Rejected, SendDatagram
from cluster.endpoint import FAULT_PAUSE_S, Endpoint
from cluster.errors import Reason
from cluster.instant import Instant
from cluster.peers import Peers
from cluster.profile import Profile
from cluster.sockets import Sockets, bind
from tests.support.ipv6 import LOOPBACKS
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S, until

from .toyengine import PATIENT, ToyEngine, frame

ANY = Address("127.0.0.1", 0)
REQUEST = frame(b"request" * 10)
REPLY = frame(b"reply" * 10)


class Node:
    def __init__(self, engine: ToyEngine, endpoint: Endpoint, told: list[Effect]) -> None:
        self.engine = engine
        self.endpoint = endpoint
        self.told = told
        self.address = engine.settings.advertise

    def emit(self, *effects: Effect) -> None:
        self.endpoint.run(lambda engine, at: self.engine.queue.extend(effects))


@asynccontextmanager
async def running(
    ip: str = "127.0.0.1", profile: Profile = PATIENT, **options: object
) -> AsyncIterator[Node]:
    sockets = bind(Address(ip, 0))
    engine = ToyEngine(sockets.address, profile)
    told: list[Effect] = []
    endpoint = Endpoint(engine, sockets, tell=told.extend, **options)  # type: ignore[arg-type]
    await endpoint.start()
    try:
        yield Node(engine, endpoint, told)
    finally:
        await endpoint.close()


@contextlib.contextmanager
def stranger() -> object:  # type: ignore[misc]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    yield sock
    sock.close()


@pytest.mark.parametrize("ip", LOOPBACKS)
async def test_datagrams_come_in_with_their_source_and_go_out(ip: str) -> None:
    async with running(ip) as one, running(ip) as other:
        other.engine.on[b"ping"] = other.engine.echo
        one.emit(SendDatagram(other.address, b"ping"))
        await until(lambda: one.engine.of("datagram"))
        assert other.engine.of("datagram") == [(b"ping", one.address)]
        assert one.engine.of("datagram") == [(b"echo", other.address)]
        assert one.endpoint.figures()["datagrams_sent"] == 1
        assert one.endpoint.figures()["datagram_bytes_received"] == 4
        assert one.endpoint.figures()["toys"] == 1


@pytest.mark.parametrize("ip", LOOPBACKS)
async def test_a_stream_is_one_frame_there_and_one_back(ip: str) -> None:
    async with running(ip) as one, running(ip) as other:
        other.engine.on[REQUEST] = lambda source, at: REPLY
        one.emit(OpenStream(7, other.address, REQUEST, PATIENCE_S, True))
        await until(lambda: one.engine.of("reply"))
        assert one.engine.of("reply") == [(7, REPLY)]
        ((data, source),) = other.engine.of("stream")
        assert data == REQUEST
        assert source.ip == ip


async def test_a_stream_without_reply_settles_when_all_is_sent() -> None:
    async with running() as one, running() as other:
        one.emit(OpenStream(1, other.address, REQUEST, PATIENCE_S, False))
        await until(lambda: one.engine.of("reply") and other.engine.of("stream"))
        assert one.engine.of("reply") == [(1, b"")]


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_both_loops_will_do(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def talk() -> None:
        async with running() as one, running() as other:
            other.engine.on |= {b"ping": other.engine.echo, REQUEST: lambda source, at: REPLY}
            one.emit(
                SendDatagram(other.address, b"ping"), OpenStream(7, other.address, REQUEST, PATIENCE_S, True)
            )
            await until(lambda: one.engine.of("reply") and one.engine.of("datagram"))
            assert one.engine.of("reply") == [(7, REPLY)]

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(talk())


async def test_streams_leave_from_the_address_of_the_cluster() -> None:
    async with running("127.0.0.7") as one, running("127.0.0.8") as other:
        one.emit(OpenStream(1, other.address, REQUEST, PATIENCE_S, False))
        await until(lambda: other.engine.of("stream"))
        assert other.engine.of("stream")[0][1].ip == "127.0.0.7"


async def test_frames_of_a_megabyte_arrive_whole() -> None:
    big, bigger = frame(b"q" * 1_000_000), frame(b"r" * 3_000_000)
    async with running() as one, running() as other:
        other.engine.on[big] = lambda source, at: bigger
        one.emit(OpenStream(1, other.address, big, PATIENCE_S, True))
        await until(lambda: one.engine.of("reply"))
        assert one.engine.of("reply") == [(1, bigger)]


async def test_nobody_there_no_answer_and_no_way_all_settle_as_nothing() -> None:
    async with running() as one, running() as silent:
        free = bind(ANY)
        free.close()
        one.emit(
            OpenStream(1, free.address, REQUEST, 2.0, True),
            OpenStream(2, silent.address, REQUEST, 2.0, True),  # closes without a reply
            OpenStream(3, Address("::1", 9), REQUEST, 2.0, True),
        )
        await until(lambda: len(one.engine.of("reply")) == 3)
        outcomes = dict(one.engine.of("reply"))
        assert outcomes[1] is None
        assert not outcomes[2]
        assert outcomes[3] is None


async def test_a_peer_that_accepts_and_says_nothing_costs_the_timeout() -> None:
    deaf = socket.create_server(("127.0.0.1", 0))
    async with running() as one:
        one.emit(OpenStream(1, Address("127.0.0.1", deaf.getsockname()[1]), REQUEST, 0.2, True))
        await until(lambda: one.engine.of("reply"))
        assert one.engine.of("reply") == [(1, None)]
        assert one.endpoint.figures()["stream_timeouts"] == 1
    deaf.close()


async def test_a_slow_sender_is_closed_after_the_timeout_of_the_profile() -> None:
    async with running(profile=replace(PATIENT, stream_timeout_s=0.5)) as node:
        begin = time.monotonic()
        reader, writer = await asyncio.open_connection(*node.address)
        writer.write(REQUEST[:10])
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        assert time.monotonic() - begin > 0.3
        assert node.engine.of("stream") == []
        assert node.endpoint.figures()["stream_timeouts"] == 1
        writer.close()


async def test_a_frame_in_pieces_is_put_together() -> None:
    async with running() as node:
        node.engine.on[REQUEST] = lambda source, at: REPLY
        reader, writer = await asyncio.open_connection(*node.address)
        for i in range(0, len(REQUEST), 7):
            writer.write(REQUEST[i : i + 7])
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.read() == REPLY
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        REQUEST[:20],
        b"\x06\x83",
        b"\x0a" + struct.pack(">I", 2**31),
        b"\xf4\x03abc" + REQUEST,
        b"GET / HTTP/1.1\r\n",
    ],
    ids=["cut short", "plaintext", "too long", "label of others", "web browser"],
)
async def test_what_is_no_frame_is_given_to_the_engine_to_count_and_closed(data: bytes) -> None:
    async with running() as node:
        reader, writer = await asyncio.open_connection(*node.address)
        writer.write(data)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        await until(lambda: node.engine.of("stream"))
        assert node.engine.of("stream")[0][0] == data
        writer.close()


async def test_a_knock_without_a_word_is_nothing() -> None:
    async with running() as node:
        _, writer = await asyncio.open_connection(*node.address)
        writer.close()
        await until(
            lambda: node.endpoint.figures()["streams_in"] and not node.endpoint.figures()["streams_open"]
        )
        assert node.engine.of("stream") == []


async def test_one_address_cannot_take_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_STREAMS_OF_AN_ADDRESS", 2)
    async with running() as node:
        held = [await asyncio.open_connection(*node.address) for _ in range(2)]
        await until(lambda: node.endpoint.figures()["streams_open"] == 2)
        reader, writer = await asyncio.open_connection(*node.address)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        assert node.endpoint.figures()["streams_refused"] == 1
        for _, each in [*held, (reader, writer)]:
            each.close()


async def test_what_streams_promise_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_HELD_BYTES", 1_000)
    head = b"\x0a" + struct.pack(">I", 600)
    async with running() as node:
        first, second = [await asyncio.open_connection(*node.address) for _ in range(2)]
        first[1].write(head)
        await until(lambda: node.endpoint._exchanges._held_bytes == 605)
        second[1].write(head)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(second[0].read(), 60) == b""
        assert node.endpoint.figures()["streams_refused"] == 1
        first[1].close()
        second[1].close()
        await until(lambda: node.endpoint._exchanges._held_bytes == 0)


async def test_the_timer_comes_when_it_is_due() -> None:
    async with running() as node:
        due = time.monotonic() + 0.1
        node.engine.on["tick"] = lambda at: node.engine.queue.append(Joined(ANY, "ticked"))
        node.endpoint.run(lambda engine, at: setattr(node.engine, "deadline", due))
        await until(lambda: node.told)
        assert node.engine.of("tick")[-1][0] >= due
        node.told.clear()
        node.endpoint.run(lambda engine, at: setattr(node.engine, "deadline", time.monotonic() + 3600))
        node.endpoint.run(lambda engine, at: setattr(node.engine, "deadline", time.monotonic() + 0.05))
        await until(lambda: node.told)


async def test_a_deadline_that_was_past_when_it_was_said_is_no_delay() -> None:
    """The next round of gossip is due at once when there is something to tell again after a quiet time."""
    async with running() as node:
        node.engine.on["tick"] = lambda at: node.engine.queue.append(Joined(ANY, "ticked"))
        node.endpoint.run(lambda engine, at: setattr(node.engine, "deadline", at.now - 10_000.0))
        await until(lambda: node.told)
        assert all(late_s < 1_000.0 for late_s, *_ in node.engine.of("late"))
        assert node.endpoint.figures()["loop_delay_max_s"] < 1_000.0


async def test_a_loop_that_was_held_up_tells_the_engine_before_anything_else() -> None:
    async with running() as node, running() as other:
        node.endpoint.run(lambda engine, at: setattr(node.engine, "deadline", at.now + 0.01))
        other.emit(SendDatagram(node.address, b"waiting"))
        time.sleep(0.2)
        await until(lambda: node.engine.of("datagram"))
        kinds = [each[0] for each in node.engine.seen if each[0] in ("late", "datagram")]
        told_before = kinds.index("datagram")
        assert told_before, "the datagram came first"
        assert node.engine.of("late")[told_before - 1][0] > 0.1
        assert node.endpoint.figures()["loop_delays"] == kinds.count("late")
        assert node.endpoint.figures()["loop_delay_max_s"] > 0.1


async def test_a_fault_of_the_engine_costs_its_packet_only(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of the engine")

    async with running() as one, running() as other:
        other.engine.on |= {b"bad": fail, b"good": other.engine.echo, REQUEST: fail}
        for each in (b"bad", b"bad", b"good"):
            one.emit(SendDatagram(other.address, each))
        one.emit(OpenStream(1, other.address, REQUEST, PATIENCE_S, True))
        await until(lambda: one.engine.of("datagram") and one.engine.of("reply"))
        assert other.endpoint.figures()["engine_faults"] == 3
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info


async def test_a_timer_that_always_fails_is_no_busy_loop() -> None:
    def fail(at: Instant) -> None:
        node.engine.deadline = at.now
        raise ZeroDivisionError

    async with running() as node:
        node.engine.on["tick"] = fail
        node.endpoint.run(lambda engine, at: setattr(node.engine, "deadline", at.now))
        await asyncio.sleep(0.3)
        assert 1 <= len(node.engine.of("tick")) <= 0.3 / FAULT_PAUSE_S + 2


async def test_commands_raise_to_their_caller() -> None:
    def fail(engine: object, at: Instant) -> None:
        raise ValueError("too long")

    async with running() as node:
        with pytest.raises(ValueError, match="too long"):
            node.endpoint.run(fail)
        assert node.endpoint.figures()["engine_faults"] == 0


async def test_effects_are_told_in_their_order_and_rejections_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notices = [NoticeHeard(1, "a", b"%d" % i) for i in range(10)]
    rejected = Rejected(Address("192.0.2.66", 1), Reason.KEY, "no key opens it")
    async with running() as node:
        node.emit(*notices[:5], rejected, *notices[5:], rejected)
        assert node.told == notices
    (record,) = caplog.records
    assert record.fields["ip"] == "192.0.2.66"


async def test_names_of_peers_are_looked_up_again_and_again_until_the_node_leaves() -> None:
    found = ["127.0.0.50", "127.0.0.1"]

    async def lookup(host: str, family: int) -> list[str]:
        return found

    own = Address("127.0.0.1", 7946)
    async with running(peers=Peers(["cluster.example"], (own,), lookup)) as node:
        await until(lambda: node.engine.of("peers"))
        assert node.engine.of("peers")[0][0] == (Address("127.0.0.50", 7946),)
        found[0] = "127.0.0.51"
        await until(lambda: node.engine.of("peers")[-1][0] == (Address("127.0.0.51", 7946),))
        node.engine.has_left = True
        assert await node.endpoint.leave(PATIENCE_S)
        count = len(node.engine.of("peers"))
        await asyncio.sleep(0.15)
        assert len(node.engine.of("peers")) == count


async def test_leaving_waits_until_the_others_are_told() -> None:
    async with running() as node:
        node.engine.on["leave"] = lambda at: setattr(node.engine, "deadline", at.now + 0.05)
        node.engine.on["tick"] = lambda at: setattr(node.engine, "has_left", True)
        assert await node.endpoint.leave(PATIENCE_S)
    async with running() as node:
        assert not await node.endpoint.leave(0.05)


async def test_a_datagram_to_nowhere_is_counted_and_forgotten() -> None:
    async with running() as node:
        node.emit(SendDatagram(Address("::1", 9), b"x"), SendDatagram(node.address, bytes(70_000)))
        assert node.endpoint.figures()["datagrams_unsent"] == 2


def test_both_sockets_have_the_same_port_and_nobody_else_gets_it() -> None:
    sockets = bind(Address(ANY.ip, free_port()))
    assert sockets.udp.getsockname() == sockets.tcp.getsockname() == tuple(sockets.address)
    with pytest.raises(OSError):
        bind(sockets.address)
    copy = sockets.duplicate()
    sockets.close()
    assert copy.udp.getsockname() == tuple(copy.address)
    copy.close()
    again: Sockets = bind(copy.address)
    again.close()
