"""What a port really shows: a handshake as a client would make it. Nodes check each other by it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

WITHIN_S: Final = 10.0
MAX_LINES: Final = 100  # of a reply before TLS


@dataclass(frozen=True, slots=True)
class Observation:
    """``fingerprint``: SHA-256 of the leaf, hex; empty when there was no handshake, and ``fault`` says why.
    ``is_trusted``: the chain leads to a root, and the certificate is for the name. ``distrust``: why not."""

    fingerprint: str = ""
    not_after: datetime | None = None
    is_trusted: bool = False
    distrust: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Dialogue:
    """``ends``: how the last line of the greeting and of the answer to ``command`` begins."""

    greeting_ends: tuple[bytes, ...]
    hello: bytes
    hello_ends: tuple[bytes, ...]
    command: bytes
    ends: tuple[bytes, ...]


# RFC 9051 §6.2.1, RFC 2595 §4, RFC 3207, RFC 5804 §2.2
STARTTLS: Final[Mapping[str, _Dialogue]] = {
    "imap": _Dialogue((b"* OK",), b"", (), b"a STARTTLS\r\n", (b"a OK",)),
    "pop3": _Dialogue((b"+OK",), b"", (), b"STLS\r\n", (b"+OK",)),
    "lmtp": _Dialogue((b"220 ",), b"LHLO observer.invalid\r\n", (b"250 ",), b"STARTTLS\r\n", (b"220 ",)),
    "managesieve": _Dialogue((b"OK",), b"", (), b"STARTTLS\r\n", (b"OK",)),
}


class _NoTls(Exception):
    """The message says what the server said instead."""


async def observe(
    host: str,
    port: int,
    name: str = "",
    *,
    starttls: str = "",
    roots: str = "",
    preface: bytes = b"",
    within_s: float = WITHIN_S,
) -> Observation:
    """Connect and shake hands, asking for server ``name`` (empty: for none).

    ``starttls``: a key of ``STARTTLS``; empty: TLS from the first byte. ``roots``: those to trust, PEM; the
    system's when empty. ``preface`` goes first, a PROXY header say. A second connection is made when the
    first shows something that is not trusted. Never raises for what a server does.
    """
    trust = ssl.create_default_context(cadata=roots or None)
    if not name:  # nothing to compare: then it is the chain alone that is judged
        trust.check_hostname = False
    place = _Place(host, port, name, starttls, preface)
    try:
        async with asyncio.timeout(within_s):
            return await _looked_at(place, trust)
    except TimeoutError:
        return Observation(fault=f"no handshake within {within_s:g} s")
    except (OSError, EOFError, _NoTls) as error:  # ssl.SSLError is an OSError
        return Observation(fault=str(error) or type(error).__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    host: str
    port: int
    name: str
    starttls: str
    preface: bytes


async def _looked_at(place: _Place, trust: ssl.SSLContext) -> Observation:
    try:
        leaf, distrust = await _leaf(place, trust), ""
    except ssl.SSLCertVerificationError as error:
        leaf, distrust = await _leaf(place, _unverifying()), error.verify_message
    certificate = x509.load_der_x509_certificate(leaf)
    return Observation(
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_after=certificate.not_valid_after_utc,
        is_trusted=not distrust,
        distrust=distrust,
    )


async def _leaf(place: _Place, context: ssl.SSLContext) -> bytes:
    """As DER."""
    reader, writer = await asyncio.open_connection(place.host, place.port)
    try:
        writer.write(place.preface)
        if place.starttls:
            await _ask_for_tls(reader, writer, STARTTLS[place.starttls])
        await writer.start_tls(context, server_hostname=place.name or None)
        leaf: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if leaf is None:
            raise _NoTls("the server showed no certificate")
        return leaf
    finally:
        writer.transport.abort()  # waiting for its end would be for ever after a handshake that failed


async def _ask_for_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Dialogue) -> None:
    await _read_until(reader, way.greeting_ends)
    if way.hello:
        writer.write(way.hello)
        await _read_until(reader, way.hello_ends)
    writer.write(way.command)
    await _read_until(reader, way.ends)


async def _read_until(reader: asyncio.StreamReader, ends: tuple[bytes, ...]) -> None:
    """Past lines that announce more: untagged ones, those with a hyphen, quoted capabilities."""
    for _ in range(MAX_LINES):
        line = await reader.readline()
        if not line:
            raise EOFError("the server closed the connection")
        if line.startswith(ends):
            return
        if not (line.startswith((b"* ", b'"')) or line[3:4] == b"-"):
            raise _NoTls(f"the server said {line[:200].decode('ascii', 'replace').strip()!r}")
    raise _NoTls("the server says too much before TLS")


def _unverifying() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
