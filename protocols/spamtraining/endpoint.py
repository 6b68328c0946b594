"""The filter's end: one POST for each lesson."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from aiohttp import ClientSession

MAX_REPLY_BYTES: Final = 4096
# About this message; all other refusals are about us or the filter.
_ABOUT_THE_MESSAGE: Final = frozenset({400, 409, 413, 415, 422})


class EndpointDown(Exception):
    """The filter cannot be reached, is too slow, or does not want to talk to us."""


class Endpoint(Protocol):
    async def post(self, body: bytes) -> bool:
        """Whether the lesson was taken; False: the filter does not want this message. Raises EndpointDown."""
        ...

    async def close(self) -> None: ...


class HttpEndpoint:
    """Certificates are verified, and redirects are not followed: the token is for this URL."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": "Sora"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._session: ClientSession | None = None

    async def post(self, body: bytes) -> bool:
        import aiohttp

        try:
            async with self._open().post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                await response.content.read(MAX_REPLY_BYTES)  # so that the connection can be used again
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EndpointDown(str(error) or type(error).__name__) from error
        if 200 <= status < 300:
            return True
        if status in _ABOUT_THE_MESSAGE:
            return False
        raise EndpointDown(f"HTTP {status}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout

        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_s))
        return self._session
