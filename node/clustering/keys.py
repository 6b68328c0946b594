"""The keys of the whole cluster, changed from one node: Serf's key queries, which every member answers.

A rotation has three steps: install a new key everywhere, use it everywhere, remove the old one when everybody
that is to come back has it. Each may be repeated. Keys are named by fingerprints and never shown.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cluster.errors import PacketRejected
from cluster.serf.keyqueries import INSTALL, LIST, REMOVE, USE, decode_key_answer, encode_key_request

from .keyfile import KEY_SIZES, key_name

if TYPE_CHECKING:
    from .service import Clustering

WITHIN_S: Final = 5.0
KEY_BYTES: Final = 32


class BadKey(ValueError):
    """Not a key, or none that this node knows; fit for users."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one node. ``is_done`` None: it did not answer."""

    is_done: bool | None
    message: str = ""
    primary: str = ""  # names
    keys: tuple[str, ...] = ()


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def parse_key(text: str) -> bytes:
    """Raises BadKey, without repeating it."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadKey("a key is written in base64: openssl rand -base64 32") from error
    if len(key) not in KEY_SIZES:
        raise BadKey("a key has 32 bytes: openssl rand -base64 32")
    return key


class ClusterKeys:
    def __init__(self, clustering: Clustering) -> None:
        self._clustering = clustering

    def named(self, text: str) -> bytes:
        """One of the keys that this node knows, by its name, the beginning of that, or itself. Raises
        BadKey."""
        keys = self._clustering.keys
        found = [key for key in keys if text and key_name(key).startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BadKey(f"{text} is the beginning of several names of keys")
        try:
            key = parse_key(text)
        except BadKey:
            key = b""
        if key not in keys:
            raise BadKey("this node knows no such key; 'sora-node cluster keys' names those it knows")
        return key

    async def known(self) -> dict[str, Answer]:
        """Raises GossipUnavailable."""
        return await self._ask(LIST, b"")

    async def install(self, key: bytes) -> dict[str, Answer]:
        return await self._ask(INSTALL, key)

    async def use(self, key: bytes) -> dict[str, Answer]:
        return await self._ask(USE, key)

    async def remove(self, key: bytes) -> dict[str, Answer]:
        return await self._ask(REMOVE, key)

    async def _ask(self, name: str, key: bytes) -> dict[str, Answer]:
        raw = await self._clustering.gossip.ask(name, encode_key_request(key), timeout_s=WITHIN_S)
        expected = [each.name for each in self._clustering.roster.alive]
        return {node: _read(raw.get(node)) for node in sorted({*raw, *expected})}


def _read(raw: bytes | None) -> Answer:
    if raw is None:
        return Answer(None, "no answer")
    try:
        answer = decode_key_answer(raw)
    except PacketRejected as error:
        return Answer(False, f"its answer cannot be read: {error}")
    return Answer(
        answer.is_done,
        answer.message,
        _name(answer.primary) if answer.primary else "",
        tuple(_name(key) for key in answer.keys),
    )


def _name(text: str) -> str:
    try:
        return key_name(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return "unreadable"
