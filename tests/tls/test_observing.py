from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.generations import generation
from tls.contexts import Material, server_context
from tls.observing import STARTTLS, observe
from tls.serving import read_generation

NOW = datetime.now(UTC)
SHOWN = generation("mail.example.com", begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=9))
ROOTS = SHOWN.chain_pem.decode()
# what the server says first, and to each line
TALKS: dict[str, Sequence[bytes]] = {
    "imap": (b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hello\r\n", b"a OK go\r\n"),
    "pop3": (b"+OK hello\r\n", b"+OK go\r\n"),
    "lmtp": (b"220-well\r\n220 hello\r\n", b"250-x\r\n250-STARTTLS\r\n250 SIZE\r\n", b"220 go\r\n"),
    "managesieve": (b'"IMPLEMENTATION" "x"\r\n"STARTTLS"\r\nOK\r\n', b"OK\r\n"),
}


@asynccontextmanager
async def serving(talk: Sequence[bytes], *, preface: int = 0) -> AsyncIterator[int]:
    context = server_context([Material(SHOWN.chain_pem, SHOWN.key_pem)])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(preface)
            for number, text in enumerate(talk):
                if number:
                    await reader.readline()
                writer.write(text)
            if talk and not talk[-1].startswith((b"NO", b"* BYE")):
                await writer.start_tls(context)
            await reader.read()
        except (OSError, EOFError):
            pass  # it has seen enough
        finally:
            writer.close()

    implicit = None if talk else context
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=implicit)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("starttls", ["", *STARTTLS])
async def test_what_is_shown(starttls: str) -> None:
    assert TALKS.keys() == STARTTLS.keys()
    async with serving(TALKS.get(starttls, ())) as port:
        seen = await observe("127.0.0.1", port, "mail.example.com", starttls=starttls, roots=ROOTS)
    assert seen.fingerprint == read_generation(SHOWN).bundle.fingerprint
    assert seen.not_after == read_generation(SHOWN).bundle.not_after
    assert (seen.is_trusted, seen.distrust, seen.fault) == (True, "", "")


@pytest.mark.parametrize(
    ("name", "roots", "why"),
    [
        ("other.example", ROOTS, "mismatch"),
        ("mail.example.com", "", "self-signed"),
        ("", "", "self-signed"),
    ],
)
async def test_what_is_not_trusted_is_seen_all_the_same(name: str, roots: str, why: str) -> None:
    async with serving(TALKS["imap"]) as port:
        seen = await observe("127.0.0.1", port, name, starttls="imap", roots=roots)
    assert seen.fingerprint == read_generation(SHOWN).bundle.fingerprint
    assert not seen.is_trusted
    assert why in seen.distrust.lower()


async def test_without_a_name_the_chain_is_judged() -> None:
    async with serving(()) as port:
        assert (await observe("127.0.0.1", port, roots=ROOTS)).is_trusted


async def test_a_preface_goes_first() -> None:
    async with serving(TALKS["pop3"], preface=5) as port:
        seen = await observe("127.0.0.1", port, starttls="pop3", roots=ROOTS, preface=b"PROXY")
    assert seen.is_trusted


@pytest.mark.parametrize(
    ("talk", "fault"),
    [
        ((b"NO go away\r\n",), "the server said 'NO go away'"),
        ((b"* BYE busy\r\n",), "no handshake within"),
        ((b"* OK hello\r\n", b"a NO\r\n"), "the server said 'a NO'"),
        ((b"* OK hello\r\n", b"* OK more\r\n" * 200), "too much"),
    ],
)
async def test_faults(talk: Sequence[bytes], fault: str) -> None:
    async with serving(talk) as port:
        within_s = 0.5 if "within" in fault else 60.0
        seen = await observe("127.0.0.1", port, starttls="imap", within_s=within_s)
    assert fault in seen.fault
    assert seen.fingerprint == ""


async def test_nobody_there() -> None:
    async with serving(()) as port:
        pass
    assert "connect call failed" in (await observe("127.0.0.1", port)).fault.lower()
