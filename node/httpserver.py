"""What all our HTTP servers have in common: limits of headers, and silence about the faults of peers and
about what they are made of.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

MAX_HEADER_BYTES: Final = 8190
NAME: Final = "Sora"

log = logging.getLogger("sora.http")

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _OurFaults(logging.Filter):
    """What a peer sends wrongly is answered with 400, and no news."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_OUR_FAULTS: Final = _OurFaults()  # a logger takes the same filter once


class HttpServer(web.Server):
    """Connections on which ``answer`` answers. The library's own answers, to what is no request, come under
    our name, too."""

    def __init__(self, answer: Answer, **more: Any) -> None:
        """``more``: of ``web.RequestHandler``."""
        log.addFilter(_OUR_FAULTS)
        super().__init__(
            answer,
            access_log=None,
            logger=log,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            **more,
        )

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        resp.headers[hdrs.SERVER] = NAME
        return await super().finish_response(request, resp, start_time)
