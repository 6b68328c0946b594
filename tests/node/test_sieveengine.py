"""What the engine says to ManageSieve."""

from __future__ import annotations

import asyncio

import pytest

from node.config import Server
from node.sieveengine import COMPILED_INLINE_BYTES, SieveEngine, sieve_engine
from protocols.sieve.registry import NAMES


@pytest.mark.parametrize("filling", [0, COMPILED_INLINE_BYTES])
async def test_errors_name_their_place(filling: int) -> None:
    engine = SieveEngine({"fileinto"}, sends=True)
    filler = b"#" * filling + b"\n"
    verdict = await engine.check(filler + b'require "vacation";\nfileinto "x";\n')
    assert verdict.errors.startswith('line 2, column 9: the extension "vacation" is not available')
    assert "line 3, column 1:" in verdict.errors
    assert not (await engine.check(filler + b'require "fileinto"; fileinto "x";')).errors


async def test_the_loop_goes_on_while_the_worst_script_is_compiled() -> None:
    engine = SieveEngine(NAMES, sends=True)
    pattern = b'if header :regex "a" "((((a{1,100}){1,100}){1,100}){1,100})" { stop; }'
    checking = asyncio.ensure_future(engine.check(b'require "regex";' + pattern * 100))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3
    assert "too large" in (await checking).errors


@pytest.mark.parametrize("script", [b"", b"\0", b"\xff", b"{" * 5000, b'"', b"keep"])
async def test_whatever_the_octets_are(script: bytes) -> None:
    await SieveEngine(NAMES, sends=True).check(script)


def test_notify_is_told_with_the_extension_only() -> None:
    assert SieveEngine({"enotify"}, sends=True).notify_schemes == ("mailto",)
    assert SieveEngine({"fileinto"}, sends=True).notify_schemes == ()
    assert SieveEngine({"vacation", "body"}, sends=True).extensions == ("body", "vacation")


def server(*extensions: str) -> Server:
    return Server(type="managesieve", supported_extensions=extensions)


def test_a_server_may_allow_less_than_the_section_sieve_and_never_more() -> None:
    some = frozenset({"fileinto", "vacation"})
    assert sieve_engine(some, server(), sends=True).extensions == ("fileinto", "vacation")
    assert sieve_engine(some, server("vacation", "regex"), sends=True).extensions == ("vacation",)


async def test_without_a_relay_nothing_is_promised_that_sends_mail() -> None:
    engine = sieve_engine(NAMES, server(), sends=False)
    assert engine.max_redirects == 0
    assert engine.notify_schemes == ()
    for name in ("vacation", "vacation-seconds", "enotify", "fcc"):
        assert name not in engine.extensions
        assert "not available" in (await engine.check(b'require "%b";' % name.encode())).errors
    assert set(engine.extensions) == NAMES - {"vacation", "vacation-seconds", "enotify", "fcc"}
    sending = sieve_engine(NAMES, server(), sends=True)
    assert sending.max_redirects
    assert set(sending.extensions) == NAMES
