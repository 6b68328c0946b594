"""The link: frames in any pieces, garbage ends it, answers and refusals come back, nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.link import (
    MAX_FRAME_BYTES,
    SILENT_AFTER_BEATS,
    Answerer,
    Beat,
    BrokenFrame,
    Call,
    Cancel,
    Frame,
    FrameReader,
    Hearer,
    Link,
    LinkFault,
    Notice,
    Refused,
    Reply,
    encode,
)
from protocols.errors import TooManySessions
from tests.support.waiting import until

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
ids = st.integers(0, 1 << 40)
frames = st.one_of(
    st.builds(Call, ids, st.text(max_size=20), st.lists(values, max_size=4)),
    st.builds(Reply, ids, values),
    st.builds(Refused, ids, st.text(max_size=20), st.text(max_size=40)),
    st.builds(Cancel, ids),
    st.builds(Notice, st.text(max_size=20), st.lists(values, max_size=4)),
    st.just(Beat()),
)


@settings(max_examples=150)
@given(st.lists(frames, max_size=6), st.integers(1, 17))
def test_frames_survive_any_cutting(sent: list[Frame], piece: int) -> None:
    data = b"".join(encode(frame) for frame in sent)
    reader, received = FrameReader(), []
    for start in range(0, len(data), piece):
        received += reader.receive(data[start : start + piece])
    assert received == sent


@settings(max_examples=200)
@given(st.binary(max_size=80), st.lists(frames, min_size=1, max_size=3), st.data())
def test_garbage_is_a_broken_frame_and_nothing_else(
    garbage: bytes, sent: list[Frame], data: st.DataObject
) -> None:
    good = b"".join(encode(frame) for frame in sent)
    at = data.draw(st.integers(0, len(good)))
    with contextlib.suppress(BrokenFrame):
        FrameReader().receive(good[:at] + garbage + good[at:])
    with contextlib.suppress(BrokenFrame):
        FrameReader().receive(struct.pack("!I", len(garbage)) + garbage)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\x09",
        b"\x92\x00\x01",
        b"\x91" * 5000,
        b"\x94\x00\x01\xa1a\xc0",
        b"\x92\x03\xa1x",
    ],
    ids=["empty", "null", "no kind", "unknown kind", "short call", "deep", "arguments", "id"],
)
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(BrokenFrame):
        FrameReader().receive(struct.pack("!I", len(body)) + body)


def test_length_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(BrokenFrame):
        FrameReader().receive(struct.pack("!I", MAX_FRAME_BYTES + 1))
    with pytest.raises(LinkFault):
        encode(Notice("a", [b"x" * MAX_FRAME_BYTES]))


@asynccontextmanager
async def linked(
    calls: Mapping[str, Answerer] | None = None, notices: Mapping[str, Hearer] | None = None
) -> AsyncIterator[tuple[Link, Link]]:
    """One that asks, and one that answers."""
    loop = asyncio.get_running_loop()
    ends = [Link({}, {}), Link(calls or {}, notices or {})]
    for link, sock in zip(ends, socket.socketpair(), strict=True):
        sock.setblocking(False)
        await loop.create_unix_connection(lambda link=link: link, sock=sock)  # type: ignore[misc]
    yield ends[0], ends[1]
    for link in ends:
        link.end("test over")


async def test_answers_refusals_and_notices() -> None:
    heard = []
    noticed = asyncio.Event()

    async def double(number: int) -> int:
        return 2 * number

    async def refuse() -> None:
        raise TooManySessions("three are allowed")

    async def bug() -> None:
        raise KeyError("x")

    def hear(word: str) -> None:
        heard.append(word)
        noticed.set()

    async with linked({"double": double, "refuse": refuse, "bug": bug}, {"hear": hear}) as (asking, _):
        asking.notify("hear", "news")
        assert await asyncio.gather(*(asking.call("double", n) for n in range(50))) == list(range(0, 100, 2))
        with pytest.raises(TooManySessions, match="three are allowed"):
            await asking.call("refuse")
        for method in ("bug", "unknown"):
            with pytest.raises(LinkFault):
                await asking.call(method)
        assert await asking.call("double", 4) == 8
        await noticed.wait()
    assert heard == ["news"]


async def test_answers_that_are_too_large_are_refused() -> None:
    async def much() -> bytes:
        return b"x" * MAX_FRAME_BYTES

    async with linked({"much": much}) as (asking, _):
        with pytest.raises(LinkFault):
            await asking.call("much")


class Waiting:
    """A call that never answers, and knows when it was begun and when cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def forever(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def test_call_that_is_given_up_is_cancelled_at_the_other_end() -> None:
    waiting = Waiting()
    async with linked({"forever": waiting.forever}) as (asking, _):
        with pytest.raises(LinkFault, match="no answer"):
            await asking.call("forever", timeout_s=0.01)
        await asyncio.wait_for(waiting.cancelled.wait(), 60)
        waiting.begun.clear()
        waiting.cancelled.clear()
        task = asyncio.create_task(asking.call("forever"))
        await waiting.begun.wait()
        task.cancel()
        await asyncio.wait_for(waiting.cancelled.wait(), 60)


async def test_end_of_the_link_ends_all_waiting_at_both_ends() -> None:
    waiting = Waiting()
    async with linked({"forever": waiting.forever}) as (asking, answering):
        task = asyncio.create_task(asking.call("forever"))
        await waiting.begun.wait()
        asking.end("enough")
        with pytest.raises(LinkFault, match="enough"):
            await task
        with pytest.raises(LinkFault):
            await asking.call("forever")
        asking.notify("lost")
        assert await asyncio.wait_for(answering.lost, 60) == "the other end is gone"
        await asyncio.wait_for(waiting.cancelled.wait(), 60)


@pytest.mark.parametrize("say", [b"\xff\xff\xff\xff", struct.pack("!I", 1) + b"\xc0"])
async def test_broken_frame_ends_the_link(say: bytes) -> None:
    async with linked() as (asking, answering):
        assert asking._transport is not None
        asking._transport.write(say)
        assert await asyncio.wait_for(answering.lost, 60) == "broken frame"


async def test_unknown_notice_ends_the_link() -> None:
    async with linked() as (asking, answering):
        asking.notify("nonsense")
        assert "unknown notice" in await asyncio.wait_for(answering.lost, 60)


async def test_silence_is_counted_in_own_beats_and_ends_with_the_first_word() -> None:
    async with linked() as (asking, answering):
        assert answering._beating is not None
        for _ in range(SILENT_AFTER_BEATS + 1):
            answering._beat()
        assert answering.is_silent
        asking._beat()
        await until(lambda: not answering.is_silent)


async def test_end_that_does_not_read_is_cut_off() -> None:
    async with linked() as (asking, answering):
        assert answering._transport is not None
        answering._transport.pause_reading()
        for _ in range(40):
            asking.notify("hear", b"x" * (MAX_FRAME_BYTES - 100))
        assert "does not read" in await asyncio.wait_for(asking.lost, 60)
