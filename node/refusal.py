"""Connections beyond ``max_connections``: told so in the protocol's words, and closed."""

from __future__ import annotations

import asyncio
from typing import cast

from protocols.ports import Peer

GOODBYES = {
    "imap": b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n",
    "pop3": b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
    "lmtp": b"421 4.3.2 Too many connections, try again later\r\n",
    "managesieve": b'BYE (TRYLATER) "Too many connections, try again later"\r\n',
    "metrics": b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
}


class Refusal(asyncio.Protocol):
    """Says goodbye and closes; holds nothing."""

    peer: Peer

    def __init__(self, protocol: str) -> None:
        self._goodbye = GOODBYES[protocol]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        transport.write(self._goodbye)
        transport.close()
