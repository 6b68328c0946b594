"""DNS-01 by a program of the operator's, for name servers that take no dynamic updates.

It is called with these environment variables and, of ours, PATH, HOME, LANG and TZ only; its own credentials
it reads from a file of its own:

    SORA_DNS_ACTION   "publish" or "withdraw"
    SORA_DNS_NAME     the record, absolute, without the final dot: _acme-challenge.example.com
    SORA_DNS_VALUE    the text; a publish adds it to others of the name, a withdraw removes it alone

Exit code 0 means done. What it prints goes to the log, the last line of it into the error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from . import programs
from .dns01 import DnsFailed
from .problems import clean

log = logging.getLogger("sora.tls.dns")

MAX_LOGGED_LINES = 50


class ExecHook:
    """A DnsProvider. ``command``: the program and its arguments; no shell is involved."""

    def __init__(self, command: Sequence[str], timeout_s: float = 60.0) -> None:
        """Raises ValueError without a command."""
        if not command:
            raise ValueError("the command of the hook is empty")
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._one_at_a_time = asyncio.Lock()  # few zone files survive two editors

    async def publish(self, name: str, value: str) -> None:
        await self._call("publish", name, value)

    async def withdraw(self, name: str, value: str) -> None:
        await self._call("withdraw", name, value)

    async def _call(self, action: str, name: str, value: str) -> None:
        environment = {"SORA_DNS_ACTION": action, "SORA_DNS_NAME": name, "SORA_DNS_VALUE": value}
        async with self._one_at_a_time:
            finished = await programs.run(self._command, timeout_s=self._timeout_s, environment=environment)
        for line in f"{finished.output}\n{finished.errors}".splitlines()[:MAX_LOGGED_LINES]:
            if line.strip():
                log.info("dns hook %s %s: %s", action, name, clean(line))
        if finished.code != 0:
            words = clean(finished.last_words)
            raise DnsFailed(f"the DNS hook failed to {action} {name} (exit code {finished.code}): {words}")
