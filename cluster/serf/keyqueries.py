"""Keys changed from any member: the queries ``_serf_install-key`` and its siblings, and their answers.

Every member answers for itself; the asker counts the answers. Each step may be repeated.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ..dialect import Sequence, blob, flag, malformed, pack, text
from .codec import octets
from .messages import SerfType

INSTALL: Final = "_serf_install-key"
USE: Final = "_serf_use-key"
REMOVE: Final = "_serf_remove-key"
LIST: Final = "_serf_list-keys"
KEY_QUERIES: Final = (INSTALL, USE, REMOVE, LIST)
MAX_KEYS: Final = 8  # a rotation needs two; every packet with an unknown key is tried with all
_MAX_MESSAGE_BYTES: Final = 512
REFUSAL: Final = "the keys of this node are changed by its configuration only"


class Ring(Protocol):
    """``keyring.KeyRing``. The methods raise ValueError."""

    @property
    def keys(self) -> tuple[bytes, ...]: ...

    @property
    def primary(self) -> bytes: ...

    def install(self, key: bytes) -> None: ...

    def use(self, key: bytes) -> None: ...

    def remove(self, key: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """``keys``: base64, only in answer to LIST."""

    is_done: bool
    message: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    primary: str = field(default="", repr=False)


def encode_key_request(key: bytes) -> bytes:
    """The payload of a key query; for LIST without a key."""
    return b"\x07" + pack({"Key": key or None})


def decode_key_request(payload: bytes) -> bytes:
    """Raises PacketRejected."""
    if payload[:1] != bytes((SerfType.KEY_REQUEST,)):
        raise malformed("key request")
    return blob(Sequence(payload[1:]).next_map(), b"Key", 64)


def encode_key_answer(answer: KeyAnswer) -> bytes:
    fields = {
        "Keys": list(answer.keys) or None,
        "Message": answer.message,
        "PrimaryKey": answer.primary,
        "Result": answer.is_done,
    }
    return b"\x08" + pack(fields)


def decode_key_answer(payload: bytes) -> KeyAnswer:
    """Raises PacketRejected."""
    if payload[:1] != bytes((SerfType.KEY_RESPONSE,)):
        raise malformed("key response")
    fields = Sequence(payload[1:]).next_map()
    keys = fields.get(b"Keys") or ()
    if type(keys) is not tuple:
        raise malformed("Keys")
    return KeyAnswer(
        flag(fields, b"Result"),
        text(fields, b"Message", _MAX_MESSAGE_BYTES),
        tuple(octets(key).decode("ascii", "replace") for key in keys),
        text(fields, b"PrimaryKey", _MAX_MESSAGE_BYTES),
    )


def answer_key_query(name: str, payload: bytes, ring: Ring, *, is_allowed: bool) -> KeyAnswer:
    """Do it, and say how it went. Raises PacketRejected for a damaged request."""
    if not is_allowed:
        return KeyAnswer(is_done=False, message=REFUSAL)
    if name == LIST:
        return KeyAnswer(True, keys=tuple(map(_as_text, ring.keys)), primary=_as_text(ring.primary))
    try:
        _CHANGES[name](ring, decode_key_request(payload))
    except ValueError as e:
        return KeyAnswer(is_done=False, message=str(e))
    return KeyAnswer(is_done=True)


def _install(ring: Ring, key: bytes) -> None:
    if len(ring.keys) >= MAX_KEYS and key not in ring.keys:
        raise ValueError(f"there are {MAX_KEYS} keys already")
    ring.install(key)


def _use(ring: Ring, key: bytes) -> None:
    ring.use(key)


def _remove(ring: Ring, key: bytes) -> None:
    ring.remove(key)


_CHANGES: Final[dict[str, Callable[[Ring, bytes], None]]] = {INSTALL: _install, USE: _use, REMOVE: _remove}


def _as_text(key: bytes) -> str:
    return base64.b64encode(key).decode()
