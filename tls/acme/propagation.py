"""Whether a TXT record is where a CA will look: at every authoritative server of its zone. Through ``dig``.

``dig`` is in the same package as ``nsupdate``. A resolver would only tell what it has cached, and a library
for DNS would be one more dependency for three questions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from . import programs
from .dns01 import DnsFailed, DnsProvider

QUERY_S = 2
PROGRAM_S = 30.0  # of all tries, on a machine that has other things to do
PAUSE_FIRST_S, PAUSE_LONGEST_S = 0.25, 5.0
MAX_SERVERS = 16
MAX_QUESTIONS = 8  # at a time, each a process
NO_REPLY = 9  # of dig's exit codes


@dataclass(frozen=True, slots=True)
class PropagationSettings:
    """``servers``: addresses that are asked; empty: those of the zone's NS records, which ``resolver`` tells
    (empty: the system's). ``port``: of all of them."""

    servers: tuple[str, ...] = ()
    resolver: str = ""
    port: int = 53
    timeout_s: float = 60.0


class Propagation:
    def __init__(self, settings: PropagationSettings) -> None:
        self._settings = settings
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)

    async def wait(self, name: str, value: str) -> None:
        """Until every server that answers has the value, and one at least does. Raises DnsFailed."""
        deadline = time.monotonic() + self._settings.timeout_s
        servers = self._settings.servers or await self.servers(name)
        if not servers:
            raise DnsFailed(f"no authoritative name server of {name} is known")
        pause_s = PAUSE_FIRST_S
        while True:
            answers = await asyncio.gather(*(self._has(server, name, value) for server in servers))
            if all(answer is not False for answer in answers) and any(answers):
                return
            if time.monotonic() + pause_s > deadline:
                raise DnsFailed(_behind(name, servers, answers, self._settings.timeout_s))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_LONGEST_S)

    async def servers(self, name: str) -> list[str]:
        """Addresses of the authoritative servers of the zone that a name is in."""
        labels = name.split(".")
        for start in range(1, len(labels)):
            hosts = await self._resolve(".".join(labels[start:]), "NS")
            if hosts:
                return await self._addresses(hosts)
        return []

    async def _addresses(self, hosts: Sequence[str]) -> list[str]:
        found = [ip for host in hosts for kind in ("A", "AAAA") for ip in await self._resolve(host, kind)]
        return found[:MAX_SERVERS]

    async def _resolve(self, name: str, kind: str) -> list[str]:
        resolver, port = self._settings.resolver, str(self._settings.port)
        at = [f"@{resolver}", "-p", port] if resolver else []
        lines = await self._dig(*at, kind, f"{name.rstrip('.')}.")
        if lines is None:
            raise DnsFailed(f"no resolver answers when it is asked for {kind} of {name}")
        # an alias comes before what it leads to
        return [line for line in lines if kind == "NS" or not line.endswith(".")]

    async def _has(self, server: str, name: str, value: str) -> bool | None:
        """None: no reply."""
        lines = await self._dig(f"@{server}", "-p", str(self._settings.port), "+norecurse", "TXT", f"{name}.")
        return None if lines is None else f'"{value}"' in lines

    async def _dig(self, *arguments: str) -> list[str] | None:
        command = ["dig", "-r", "+short", f"+time={QUERY_S}", "+tries=2", *arguments]
        async with self._questions:
            finished = await programs.run(command, timeout_s=PROGRAM_S)
        if finished.code == NO_REPLY:
            return None
        if finished.code != 0:
            raise DnsFailed(f"dig: {finished.last_words}")
        return [line for line in finished.output.splitlines() if line and not line.startswith(";")]


def _behind(name: str, servers: Sequence[str], answers: Sequence[bool | None], limit_s: float) -> str:
    words = {False: "does not have it", None: "does not answer", True: "has it"}
    told = ", ".join(f"{server} {words[answer]}" for server, answer in zip(servers, answers, strict=True))
    return f"the record {name} is not visible after {limit_s:.0f} s: {told}"


class CheckedDns:
    """A DnsProvider that has published only when the record is visible at the authoritative servers."""

    def __init__(self, provider: DnsProvider, propagation: Propagation) -> None:
        self._provider = provider
        self._propagation = propagation

    async def publish(self, name: str, value: str) -> None:
        await self._provider.publish(name, value)
        await self._propagation.wait(name, value)

    async def withdraw(self, name: str, value: str) -> None:
        await self._provider.withdraw(name, value)
