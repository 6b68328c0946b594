"""One POST after the other to one URL of the site: what relay and spam training have in common.

Certificates are verified, and redirects are not followed: the token is for this URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import ClientSession


class Unreachable(Exception):
    """No reply: nobody knows what became of the request."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    reason: str
    body: bytes  # at most what was asked for

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class HttpPost:
    """``token``: of ``Authorization: Bearer``; empty sends none. ``timeout_s``: for all of a request and its
    reply. Connections are kept."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": "Sora"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._session: ClientSession | None = None

    async def post(self, body: bytes, *, max_reply_bytes: int) -> HttpReply:
        """Raises Unreachable."""
        import aiohttp

        try:
            async with self._open().post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                # also where nobody wants it: so the connection can be used again
                raw = await response.content.read(max_reply_bytes)
                return HttpReply(response.status, response.reason or "", raw)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout

        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_s))
        return self._session
