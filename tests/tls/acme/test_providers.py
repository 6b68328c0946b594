"""DNS providers without a name server: what is refused before anything runs, and bounds of programs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tls.acme import programs
from tls.acme.dns01 import DnsFailed
from tls.acme.exechook import ExecHook
from tls.acme.rfc2136 import Rfc2136, Rfc2136Settings


@pytest.mark.parametrize(
    "change",
    [
        {"server": ""},
        {"server": "ns1.test\nupdate delete example.test"},
        {"server": "ns1.test 53"},
        {"zone": "example.test\nsend"},
        {"key_name": "key"},
        {"key_secret": "c2VjcmV0"},
        {"key_name": "key", "key_secret": "not base64!"},
        {"key_name": "key\nsend", "key_secret": "c2VjcmV0"},
        {"key_algorithm": "rot13"},
    ],
)
def test_settings_that_would_be_commands_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Rfc2136(Rfc2136Settings(**{"server": "ns1.test", **change}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("_acme-challenge.a.test\nsend", "v"), ("a b", "v"), ("", "v"), ("a.test", 'v" ; send'), ("a.test", "")],
)
async def test_names_and_values_that_would_be_commands_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*arguments: object, **more: object) -> programs.Finished:
        raise AssertionError("nsupdate was called")

    monkeypatch.setattr(programs, "run", never)
    with pytest.raises(DnsFailed):
        await Rfc2136(Rfc2136Settings("ns1.test")).publish(name, value)


def test_a_hook_needs_a_command() -> None:
    with pytest.raises(ValueError):
        ExecHook(())


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


async def test_output_is_bounded_and_a_program_need_not_read() -> None:
    noisy = python("import sys; sys.stdout.write('x' * 1_000_000); sys.stderr.write('last\\n'); sys.exit(3)")
    finished = await programs.run(noisy, timeout_s=20, given=b"y" * 1_000_000)
    assert finished.code == 3
    assert len(finished.output) == programs.MAX_OUTPUT
    assert finished.last_words == "last"


async def test_a_program_that_says_nothing() -> None:
    finished = await programs.run(python("raise SystemExit(4)"), timeout_s=20)
    assert finished.last_words == "exit code 4, nothing said"


async def test_a_program_without_an_end() -> None:
    with pytest.raises(DnsFailed, match=r"not done after 0\.2 s"):
        await programs.run(python("import time; time.sleep(600)"), timeout_s=0.2)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("given", [b"", b"update"])
def test_a_program_may_have_ended_before_it_is_given_anything(
    run: Callable[[Coroutine[Any, Any, programs.Finished]], programs.Finished],
    given: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine that is busy with other things."""
    start = asyncio.create_subprocess_exec

    async def start_late(*command: Any, **more: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **more)
        await process.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_late)
    finished = run(programs.run(["/bin/echo", "done"], timeout_s=60, given=given))
    assert (finished.code, finished.output) == (0, "done\n")
