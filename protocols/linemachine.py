"""The bytes of a machine that reads lines: what has come in, and what is to go out."""

from __future__ import annotations

from .lines import LineBuffer


class LineMachine:
    """The part of ``ports.Machine`` that is the same for every protocol on a LineBuffer."""

    __slots__ = ("_buffer", "_out")

    def __init__(self, max_line_bytes: int) -> None:
        self._buffer = LineBuffer(max_line_bytes)
        self._out: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        self._buffer.feed(data)

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def discard_input(self) -> int:
        return self._buffer.clear()

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)
