"""Streams: one message there, at most one back, each in one encrypted frame; the opener closes.

A frame is type 10, four bytes of length (most significant first), and the sealed message, maybe compressed.
Before the frame of a request stands the label, when the cluster has one. Authenticated are the frame's five
bytes and the label, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from . import codec, compression, framing
from .errors import PacketRejected, Reason
from .keyring import OVERHEAD, KeyRing
from .messages import Ack, ErrorReply, Message, MessageType, Ping, PushPull, User

MAX_FRAME_BYTES: Final = 20 * 1024 * 1024
_HEADER_BYTES: Final = 5
_ENCRYPT: Final = bytes((MessageType.ENCRYPT,))
_LABEL: Final = bytes((MessageType.LABEL,))
# Types that a message without encryption might begin with
_PLAIN: Final = frozenset(MessageType) - {MessageType.ENCRYPT, MessageType.LABEL}

Request = Ping | PushPull | User
Reply = Ack | PushPull | ErrorReply


def frame_size(buffer: bytes | bytearray | memoryview, label: str = "") -> int | None:
    """How many bytes the request or reply that begins in ``buffer`` has in all, label included; None: say
    again when there is more (at most 262 bytes are needed).

    Raises:
        PacketRejected: LABEL, PLAINTEXT, UNKNOWN_TYPE, OVERSIZED, TRUNCATED: read no further.
    """
    expected = framing.label_header(label.encode())
    start = 0
    if buffer[:1] == _LABEL:
        if bytes(buffer[: len(expected)]) != expected[: len(buffer)] or not expected:
            raise PacketRejected(Reason.LABEL)
        start = len(expected)
    if len(buffer) <= start:
        return None
    if buffer[start] != MessageType.ENCRYPT:
        known = buffer[start] in _PLAIN
        raise PacketRejected(Reason.PLAINTEXT if known else Reason.UNKNOWN_TYPE, f"type {buffer[start]}")
    if len(buffer) < start + _HEADER_BYTES:
        return None
    size = int.from_bytes(buffer[start + 1 : start + _HEADER_BYTES], "big")
    if size > MAX_FRAME_BYTES:
        raise PacketRejected(Reason.OVERSIZED, f"a frame of {size} bytes")
    if size <= OVERHEAD:
        raise PacketRejected(Reason.TRUNCATED, f"a frame of {size} bytes")
    return start + _HEADER_BYTES + size


# --- sending ------------------------------------------------------------------------------------------


def encode_request(message: bytes, ring: KeyRing, nonce: bytes, label: str = "") -> bytes:
    """``message``: from ``codec.encode``, a user message included: it gets the header it has on streams."""
    raw = label.encode()
    if message[0] == MessageType.USER:
        message = codec.encode_user_stream(message[1:])
    return framing.label_header(raw) + _frame(message, ring, nonce, raw)


def encode_reply(message: bytes, ring: KeyRing, nonce: bytes, label: str = "") -> bytes:
    """``message``: from ``codec.encode``."""
    return _frame(message, ring, nonce, label.encode())


def _frame(plain: bytes, ring: KeyRing, nonce: bytes, label: bytes) -> bytes:
    header = _ENCRYPT + (len(plain) + OVERHEAD).to_bytes(4, "big")
    return header + ring.seal(plain, nonce, header + label)


# --- receiving ----------------------------------------------------------------------------------------


def decode_request(data: bytes, ring: KeyRing, label: str = "") -> Request:
    """One whole request.

    Raises:
        PacketRejected: of each layer; UNKNOWN_TYPE for what is no request.
    """
    raw = label.encode()
    message = _open(framing.without_label(data, raw), ring, raw)
    return _decode(message, _REQUESTS)  # type: ignore[return-value]  # the table has only these


def decode_reply(data: bytes, ring: KeyRing, label: str = "") -> Reply:
    """One whole reply. Raises PacketRejected like ``decode_request``."""
    return _decode(_open(data, ring, label.encode()), _REPLIES)  # type: ignore[return-value]


def _open(data: bytes, ring: KeyRing, label: bytes) -> bytes:
    size = frame_size(data)
    if size is None or size > len(data):
        raise PacketRejected(Reason.TRUNCATED, "a part of a frame")
    if size < len(data):
        raise PacketRejected(Reason.MALFORMED, "more than a frame")
    plain = ring.open(data[_HEADER_BYTES:], data[:_HEADER_BYTES] + label)
    if plain[:1] == bytes((MessageType.COMPRESS,)):
        return compression.open_message(plain, limit=compression.STREAM)
    return plain


def _decode(message: bytes, table: Mapping[int, Callable[[bytes], Message]]) -> Message:
    decoder = table.get(message[0]) if message else None
    if decoder is None:
        raise PacketRejected(Reason.UNKNOWN_TYPE, f"type {message[0]}" if message else "nothing in a frame")
    return decoder(message)


_REQUESTS: Final[dict[int, Callable[[bytes], Message]]] = {
    MessageType.PING: codec.decode,
    MessageType.USER: codec.decode_user_stream,
    MessageType.PUSH_PULL: codec.decode_push_pull,
}
_REPLIES: Final[dict[int, Callable[[bytes], Message]]] = {
    MessageType.ACK: codec.decode,
    MessageType.ERROR: codec.decode,
    MessageType.PUSH_PULL: codec.decode_push_pull,
}
