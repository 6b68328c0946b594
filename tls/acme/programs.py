"""Other people's programs, run to their end within a time, with bounded output and none of our secrets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .dns01 import DnsFailed

MAX_OUTPUT = 64 * 1024  # octets, of each stream; the rest is read and dropped
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ")  # ours may hold secrets


@dataclass(frozen=True, slots=True)
class Finished:
    code: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        lines = (self.errors or self.output).strip().splitlines()
        return lines[-1][:300] if lines else f"exit code {self.code}, nothing said"


async def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """``given``: standard input. Raises DnsFailed when it cannot be started or is not done in time.

    It and all that it started are killed then, and when the caller is cancelled.
    """
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if given else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=kept | dict(environment or {}),
            start_new_session=True,
        )
    except OSError as error:
        raise DnsFailed(f"{command[0]} cannot be started: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(timeout_s):
            return await _talk(process, given)
    except TimeoutError as error:
        raise DnsFailed(f"{command[0]} is not done after {timeout_s:g} s") from error
    finally:
        await _end(process)


async def _talk(process: asyncio.subprocess.Process, given: bytes) -> Finished:
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors, _ = await asyncio.gather(
        _read(process.stdout), _read(process.stderr), _write(process.stdin, given)
    )
    return Finished(await process.wait(), output, errors)


async def _read(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while chunk := await stream.read(16384):
        kept += chunk[: MAX_OUTPUT - len(kept)]
    return kept.decode(errors="replace")


async def _write(stream: asyncio.StreamWriter | None, given: bytes) -> None:
    """None: nothing is given. It need not read, and may have ended, which is RuntimeError to uvloop."""
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        stream.write(given)
        await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Its whole process group: a hook may have started something that holds its output open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
