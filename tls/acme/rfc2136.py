"""DNS-01 by dynamic updates (RFC 2136) that are signed (TSIG, RFC 8945), through ``nsupdate``."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from . import programs
from .dns01 import DnsFailed

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1", "hmac-md5")
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")
_SECRET = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_VALUE = re.compile(r"[A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Rfc2136Settings:
    """``zone`` empty: the name server is asked for it. ``key_secret``: base64, of ``tsig-keygen``."""

    server: str
    port: int = 53
    zone: str = ""
    key_name: str = ""
    key_secret: str = field(default="", repr=False)
    key_algorithm: str = "hmac-sha256"
    ttl_s: int = 60
    timeout_s: float = 20.0


class Rfc2136:
    """A DnsProvider. The key goes to ``nsupdate`` by its standard input, where ``ps`` does not see it."""

    def __init__(self, settings: Rfc2136Settings) -> None:
        """Raises ValueError, naming the setting."""
        _demand("server", settings.server, _HOST)
        if settings.zone:
            _demand("zone", settings.zone, _NAME)
        if bool(settings.key_name) != bool(settings.key_secret):
            raise ValueError("key_name and key_secret belong together")
        if settings.key_name:
            _demand("key_name", settings.key_name, _NAME)
            _demand("key_secret", settings.key_secret, _SECRET)
        if settings.key_algorithm not in ALGORITHMS:
            raise ValueError(f"key_algorithm: one of {', '.join(ALGORITHMS)}")
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()

    async def publish(self, name: str, value: str) -> None:
        await self._update(name, value, f"update add {name}. {self._settings.ttl_s} IN TXT")

    async def withdraw(self, name: str, value: str) -> None:
        await self._update(name, value, f"update delete {name}. IN TXT")

    async def _update(self, name: str, value: str, change: str) -> None:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise DnsFailed(f"neither a name nor a value for a record: {name!r}")
        script = "\n".join((*self._heading(), f'{change} "{value}"', "send", "")).encode("ascii")
        timeout_s = self._settings.timeout_s
        # its own timeout is for each of several attempts; TCP, for the answer may be signed and long
        command = ["nsupdate", "-v", "-t", str(max(1, int(timeout_s))), "-r", "2"]
        async with self._one_at_a_time:
            finished = await programs.run(command, timeout_s=timeout_s, given=script)
        if finished.code != 0:
            raise DnsFailed(f"nsupdate of {name} at {self._settings.server}: {finished.last_words}")

    def _heading(self) -> list[str]:
        settings = self._settings
        lines = [f"server {settings.server} {settings.port}"]
        if settings.zone:
            lines.append(f"zone {settings.zone}")
        if settings.key_name:
            lines.append(f"key {settings.key_algorithm}:{settings.key_name} {settings.key_secret}")
        return lines


def _demand(setting: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{setting} has characters that do not belong there")
