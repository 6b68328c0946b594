"""The agent RPC as bytes: what a client sends becomes requests, what is answered becomes bytes.

A request is a header {Command, Seq} and, for most commands, a body; a reply is a header {Seq, Error} and, for
some, a body. All are msgpack maps in the newer dialect, with str and bin; old raw is read too.
Invariants: nothing but handshake and auth gets through before both are done; a client that breaks the framing
is closed, since what follows could not be told apart. Memory is bounded by MAX_REQUEST_BYTES.

To add a command: a row in ``BODIES`` here and in ``conversation``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from ..dialect import U64, Fields, uint
from ..errors import PacketRejected

MAX_REQUEST_BYTES: Final = 64 * 1024  # a query has 1 KiB, a join a list of addresses
_MAX_ITEMS: Final = 1024
_MAX_AUTH_FAILURES: Final = 3
_VERSION: Final = 1

# Whether a body follows the header.
BODIES: Final[dict[str, bool]] = {
    "handshake": True,
    "auth": True,
    "event": True,
    "force-leave": True,
    "join": True,
    "members": False,
    "members-filtered": True,
    "stream": True,
    "stop": True,
    "monitor": True,
    "leave": False,
    "install-key": True,
    "use-key": True,
    "remove-key": True,
    "list-keys": False,
    "tags": True,
    "query": True,
    "respond": True,
    "stats": False,
    "get-coordinate": True,
}

UNSUPPORTED_COMMAND: Final = "Unsupported command"
UNSUPPORTED_VERSION: Final = "Unsupported IPC version"
DUPLICATE_HANDSHAKE: Final = "Handshake already performed"
HANDSHAKE_REQUIRED: Final = "Handshake required"
AUTH_REQUIRED: Final = "Authentication required"
INVALID_AUTH: Final = "Invalid authentication token"


class ClientError(Exception):
    """The client broke the protocol: it is closed."""


@dataclass(frozen=True, slots=True)
class Request:
    """``body``: empty for commands without one. Texts in it are bytes, as ``dialect`` reads them."""

    seq: int
    command: str
    body: Fields


class Session:
    """One connection. ``auth_key`` "": none is asked for."""

    def __init__(self, auth_key: str = "") -> None:
        self._key_digest = _digest(auth_key.encode()) if auth_key else None
        self._unpacker = msgpack.Unpacker(
            raw=True,
            use_list=False,
            strict_map_key=False,
            max_buffer_size=MAX_REQUEST_BYTES,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
            max_ext_len=0,
        )
        self._pending: tuple[int, str] | None = None  # a header whose body is still to come
        self._has_handshake = False
        self._has_auth = self._key_digest is None
        self._auth_failures = 0
        self._outgoing = bytearray()
        self.is_closing = False

    @property
    def is_open(self) -> bool:
        """Commands are taken."""
        return self._has_handshake and self._has_auth

    def receive_data(self, data: bytes) -> list[Request]:
        """Raises ClientError; what was answered before that is still to be sent."""
        requests: list[Request] = []
        try:
            self._unpacker.feed(data)
            while not self.is_closing:
                request = self._take(self._unpacker.unpack())
                if request is not None:
                    requests.append(request)
        except msgpack.OutOfData:
            return requests
        except msgpack.BufferFull as fault:
            raise ClientError(f"a request of more than {MAX_REQUEST_BYTES} bytes") from fault
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException, PacketRejected) as fault:
            raise ClientError(f"not a request: {fault}"[:200]) from fault
        return requests

    def _take(self, value: object) -> Request | None:
        if not isinstance(value, dict):
            raise ClientError("not a request: no map")
        if self._pending is None:
            seq, command = uint(value, b"Seq", U64, 0), _command(value)
            if command not in BODIES:
                self._refuse(seq, UNSUPPORTED_COMMAND if self._has_handshake else HANDSHAKE_REQUIRED)
                return None
            if BODIES[command]:
                self._pending = seq, command
                return None
            value = {}
        else:
            (seq, command), self._pending = self._pending, None
        return self._admit(seq, command, value)

    def _admit(self, seq: int, command: str, body: Fields) -> Request | None:
        if command == "handshake":
            self._handshake(seq, body)
        elif not self._has_handshake:
            self._refuse(seq, HANDSHAKE_REQUIRED)
        elif command == "auth":
            self._auth(seq, body)
        elif not self._has_auth:
            self.reply(seq, AUTH_REQUIRED)
        else:
            return Request(seq, command, body)
        return None

    def _handshake(self, seq: int, body: Fields) -> None:
        if body.get(b"Version") != _VERSION:
            self.reply(seq, UNSUPPORTED_VERSION)
        elif self._has_handshake:
            self.reply(seq, DUPLICATE_HANDSHAKE)
        else:
            self._has_handshake = True
            self.reply(seq)

    def _auth(self, seq: int, body: Fields) -> None:
        given = body.get(b"AuthKey")
        if self._key_digest is None or (
            isinstance(given, bytes) and hmac.compare_digest(_digest(given), self._key_digest)
        ):
            self._has_auth = True
            self.reply(seq)
            return
        self._auth_failures += 1
        self.reply(seq, INVALID_AUTH)
        self.is_closing = self._auth_failures >= _MAX_AUTH_FAILURES

    def _refuse(self, seq: int, error: str) -> None:
        self.reply(seq, error)
        self.is_closing = True

    # --- what goes out ---

    def reply(self, seq: int, error: str = "", body: Mapping[str, Any] | None = None) -> None:
        """Also a record of a stream, with the number of the request that opened it."""
        self._outgoing += msgpack.packb({"Seq": seq, "Error": error})
        if body is not None:
            self._outgoing += msgpack.packb(body)

    def data_to_send(self) -> bytes:
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data


def _command(header: Fields) -> str:
    command = header.get(b"Command")
    return command.decode("ascii", "replace") if isinstance(command, bytes) else ""


def _digest(key: bytes) -> bytes:
    """So that not even the length can be measured."""
    return hashlib.sha256(key).digest()
