"""The link between the control process and one worker: calls, notices and heartbeats over a Unix stream.

A frame is four bytes of length, most significant first, and a msgpack array whose first element is its kind.
The codec is pure; ``Link`` is the asyncio end of it. Frames arrive in order; a notice is handled as it comes,
a call in a task of its own, so what a process sends later may overtake the answer to what it asked before.

Both ends are processes of one program on one machine, so there is no negotiation: whatever cannot be decoded
ends the link, and with it the worker.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import msgspec

from protocols.errors import AuthenticationUnavailable, TooManySessions

log = logging.getLogger("sora.link")

MAX_FRAME_BYTES: Final = 1 << 20
MAX_UNSENT_BYTES: Final = 16 << 20  # the other end does not read any more
MAX_RUNNING: Final = 10_000  # calls, in each direction
BEAT_EVERY_S: Final = 1.0
SILENT_AFTER_BEATS: Final = 10
CALL_TIMEOUT_S: Final = 10.0
_LENGTH: Final = struct.Struct("!I")


class Call(msgspec.Struct, frozen=True, array_like=True, tag=0):
    id: int
    method: str
    arguments: list[Any]


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=1):
    id: int
    result: Any


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    id: int
    code: str
    message: str


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    id: int


class Notice(msgspec.Struct, frozen=True, array_like=True, tag=4):
    method: str
    arguments: list[Any]


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Nothing but a sign of life."""


Frame = Call | Reply | Refused | Cancel | Notice | Beat


class BrokenFrame(ValueError):
    """Not something that ``encode`` wrote."""


class LinkFault(Exception):
    """No answer: the link is gone or full, time is over, or the other end could not do it."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """Raises LinkFault for what does not fit."""
    body = _ENCODER.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise LinkFault(f"a frame of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Bytes in, frames out. After BrokenFrame it must not be used again."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[Frame]:
        """Raises BrokenFrame."""
        buffer = self._buffer
        buffer += data
        frames, start = [], 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise BrokenFrame(f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            frames.append(_decode(bytes(buffer[start + _LENGTH.size : end])))
            start = end
        del buffer[:start]
        return frames


def _decode(body: bytes) -> Frame:
    try:
        return cast("Frame", _DECODER.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenFrame(str(error)) from error


# What may be raised across the link, by the code it has there.
_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "limit": TooManySessions,
    "unavailable": AuthenticationUnavailable,
    "failed": LinkFault,
}

Answerer = Callable[..., Awaitable[object]]
Hearer = Callable[..., None]


class Link(asyncio.Protocol):
    """One end. ``calls`` and ``notices`` are what the other end may say; they get its arguments.

    ``lost`` is done when the link has ended, for whatever reason; its result is the reason in words.
    """

    def __init__(self, calls: Mapping[str, Answerer], notices: Mapping[str, Hearer]) -> None:
        self._calls = calls
        self._notices = notices
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._running: dict[int, asyncio.Task[object]] = {}
        self._beating: asyncio.TimerHandle | None = None
        self.beats_missed = 0  # own beats since something was heard; a suspended machine counts none
        self.lost: asyncio.Future[str] = self._loop.create_future()

    @property
    def is_silent(self) -> bool:
        """Nothing was heard for so long that the other end must hang."""
        return self.beats_missed > SILENT_AFTER_BEATS

    # --- saying ---

    async def call(self, method: str, *arguments: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Raises LinkFault, or what the answerer raised of ``_ERRORS``. A caller that is cancelled cancels
        the call."""
        if len(self._waiting) >= MAX_RUNNING:
            raise LinkFault(f"{method}: too many calls at a time")
        number = next(self._ids)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = answer
        is_answered = False
        try:
            self._send(Call(number, method, list(arguments)))
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([answer])
            is_answered = True
            return answer.result()
        except TimeoutError as error:
            raise LinkFault(f"{method}: no answer within {timeout_s:g} s") from error
        finally:
            del self._waiting[number]
            if not is_answered and self._transport is not None:
                self._send(Cancel(number))

    def notify(self, method: str, *arguments: object) -> None:
        """Never waits; lost when the link is."""
        if self._transport is not None:
            self._send(Notice(method, list(arguments)))

    def end(self, reason: str) -> None:
        """Cut it. Idempotent."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._beating is not None:
            self._beating.cancel()
        transport.abort()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(LinkFault(reason))
        for task in self._running.values():
            task.cancel()
        if not self.lost.done():
            self.lost.set_result(reason)

    def _send(self, frame: Frame) -> None:
        if self._transport is None:
            raise LinkFault("the link is gone")
        self._transport.write(encode(frame))
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.end("the other end does not read")

    # --- hearing ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._beat()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("the other end is gone")

    def data_received(self, data: bytes) -> None:
        self.beats_missed = 0
        try:
            frames = self._reader.receive(data)
        except BrokenFrame as error:
            log.error("broken frame: %s", error)
            self.end("broken frame")
            return
        for frame in frames:
            if self._transport is None:
                return
            self._heard(frame)

    def _heard(self, frame: Frame) -> None:
        match frame:
            case Call():
                self._start(frame)
            case Notice(method, arguments):
                self._hear(method, arguments)
            case Cancel(number):
                if (task := self._running.get(number)) is not None:
                    task.cancel()
            case Reply(number, result):
                if (answer := self._waiting.get(number)) is not None and not answer.done():
                    answer.set_result(result)
            case Refused(number, code, message):
                if (answer := self._waiting.get(number)) is not None and not answer.done():
                    answer.set_exception(_ERRORS.get(code, LinkFault)(message))

    def _hear(self, method: str, arguments: list[Any]) -> None:
        hearer = self._notices.get(method)
        if hearer is None:
            self.end(f"unknown notice {method[:50]!r}")
            return
        hearer(*arguments)

    def _start(self, call: Call) -> None:
        answerer = self._calls.get(call.method)
        if answerer is None or call.id in self._running or len(self._running) >= MAX_RUNNING:
            self._send(Refused(call.id, "failed", f"{call.method[:50]}: cannot be answered"))
            return
        task = asyncio.ensure_future(_answer(answerer, call.arguments))
        self._running[call.id] = task
        task.add_done_callback(lambda done: self._answered(call, done))

    def _answered(self, call: Call, task: asyncio.Task[object]) -> None:
        del self._running[call.id]
        if task.cancelled() or self._transport is None:
            return
        error = task.exception()
        if error is None:
            self._send_result(call, task.result())
            return
        code = next((code for code, kind in _ERRORS.items() if type(error) is kind), None)
        if code is None:
            log.error("%s failed", call.method, exc_info=error)
        self._send(Refused(call.id, code or "failed", str(error)))

    def _send_result(self, call: Call, result: object) -> None:
        try:
            self._send(Reply(call.id, result))
        except LinkFault as error:
            log.error("the answer to %s cannot be sent: %s", call.method, error)
            self._send(Refused(call.id, "failed", str(error)))

    def _beat(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        self.beats_missed += 1
        self._send(Beat())
        if self._transport is not None:
            self._beating = self._loop.call_later(BEAT_EVERY_S, self._beat)


async def _answer(answerer: Answerer, arguments: list[Any]) -> object:
    return await answerer(*arguments)
