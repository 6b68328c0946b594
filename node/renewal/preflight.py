"""Whether the CA will see our answers, looked at before it is asked: in the DNS, and at port 80 of the
addresses found there and of the other nodes.

It explains and never forbids: what this machine sees is not what the CA sees (split DNS, a router that does
not let its own addresses in), and the CA has the last word anyway.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final

from tls.challenges import PREFIX

LOOK_WITHIN_S: Final = 3.0
ANSWER_BYTES_MAX: Final = 4096
ADDRESSES_MAX: Final = 8
NOT_OURS: Final = "and not with our challenge"
PAUSES_S: Final = (0.3, 1.0)  # between looks: another node answers as soon as gossip has told it what


class Preflight:
    """``nodes``: addresses of the others. ``port``: where the CA asks; ``own_port``: where nodes listen."""

    def __init__(self, nodes: Callable[[], Collection[str]], *, port: int = 80, own_port: int = 80) -> None:
        self._nodes = nodes
        self._port = port
        self._own_port = own_port

    async def __call__(self, names: Sequence[str], token: str, answer: str) -> list[str]:
        """Remarks for the operator; empty: all is well as far as can be seen. Never raises, and takes some
        seconds at most."""
        remarks = await asyncio.gather(*(self._name(name, token, answer) for name in names))
        return [remark for some in remarks for remark in some]

    async def _name(self, name: str, token: str, key_authorisation: str) -> list[str]:
        addresses = await _addresses(name)
        if isinstance(addresses, str):
            return [f"{name} is not in the DNS: {addresses}; the CA will not find this node"]
        public = [(address, self._port, "") for address in addresses[:ADDRESSES_MAX]]
        nodes = [(address, self._own_port, "node ") for address in self._nodes() if address not in addresses]
        looks = [
            _patient_look(address, port, name, token, key_authorisation, what)
            for address, port, what in (*public, *nodes)
        ]
        remarks = await asyncio.gather(*looks)
        return [remark for remark in remarks if remark]


async def _addresses(name: str) -> list[str] | str:
    """Or why there are none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOK_WITHIN_S):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return str(error)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def _patient_look(address: str, port: int, name: str, token: str, expected: str, what: str) -> str:
    """As ``_look``, and again when somebody answers, with something else."""
    for pause_s in PAUSES_S:
        remark = await _look(address, port, name, token, expected, what)
        if NOT_OURS not in remark:
            return remark
        await asyncio.sleep(pause_s)
    return await _look(address, port, name, token, expected, what)


async def _look(address: str, port: int, name: str, token: str, expected: str, what: str) -> str:
    """What is wrong with the answer there; empty: nothing."""
    where = f"{name} is at {what}{address}"
    try:
        async with asyncio.timeout(LOOK_WITHIN_S):
            answer = await _fetch(address, port, name, PREFIX + token)
    except TimeoutError:
        return f"{where}, where port {port} does not answer within {LOOK_WITHIN_S:.0f} s: a firewall?"
    except OSError as error:
        return f"{where}, where port {port} cannot be reached: {error.strerror or error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("ascii", "replace")
    if body.strip() == expected.encode("ascii"):
        return ""
    return f"{where}, where port {port} answers {status[:80]!r} {NOT_OURS}: another server?"


async def _fetch(address: str, port: int, name: str, path: str) -> bytes:
    """Raises OSError, TimeoutError."""
    reader, writer = await asyncio.open_connection(address, port, limit=ANSWER_BYTES_MAX)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("ascii"))
        await writer.drain()
        return await _read(reader)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < ANSWER_BYTES_MAX:
        piece = await reader.read(ANSWER_BYTES_MAX)
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)
