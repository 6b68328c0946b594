"""ClientHello messages: of Python's own TLS client, and built by hand."""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Iterable, Sequence


def recorded(
    *,
    server_name: str | None = "mail.example.test",
    alpn: Sequence[str] = (),
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str = "",
) -> bytes:
    """The first flight of a real client, as it goes over the wire."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if ciphers:
        context.set_ciphers(ciphers)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def vector(octets: int, data: bytes) -> bytes:
    return len(data).to_bytes(octets, "big") + data


def numbers(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("!H", value) for value in values)


def server_name(name: bytes) -> tuple[int, bytes]:
    return 0, vector(2, b"\0" + vector(2, name))


def alpn(*names: bytes) -> tuple[int, bytes]:
    return 16, vector(2, b"".join(vector(1, name) for name in names))


def versions(*values: int) -> tuple[int, bytes]:
    return 43, vector(1, numbers(values))


def algorithms(*values: int) -> tuple[int, bytes]:
    return 13, vector(2, numbers(values))


def body(
    ciphers: Iterable[int] = (0x1301,),
    extensions: Iterable[tuple[int, bytes]] | None = (),
    *,
    version: int = 0x0303,
) -> bytes:
    """``extensions`` None: a client so old that it sends no list of them."""
    made = struct.pack("!H", version) + bytes(32) + vector(1, b"") + vector(2, numbers(ciphers)) + b"\1\0"
    if extensions is not None:
        made += vector(2, b"".join(struct.pack("!H", kind) + vector(2, data) for kind, data in extensions))
    return made


def records(hello: bytes, *, most: int = 16384) -> bytes:
    """The message with its head, cut into records of at most ``most`` octets."""
    message = b"\1" + vector(3, hello)
    pieces = (message[n : n + most] for n in range(0, len(message), most))
    return b"".join(b"\x16\3\1" + vector(2, piece) for piece in pieces)
