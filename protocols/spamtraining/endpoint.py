"""The filter's end: one POST for each lesson."""

from __future__ import annotations

from typing import Final, Protocol

from protocols.httppost import HttpPost, Unreachable

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
    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._http = HttpPost(url, token, timeout_s)

    async def post(self, body: bytes) -> bool:
        try:
            reply = await self._http.post(body, max_reply_bytes=MAX_REPLY_BYTES)
        except Unreachable as error:
            raise EndpointDown(str(error)) from error
        if reply.is_success:
            return True
        if reply.status in _ABOUT_THE_MESSAGE:
            return False
        raise EndpointDown(f"HTTP {reply.status}")

    async def close(self) -> None:
        await self._http.close()
