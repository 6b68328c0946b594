"""Server side of SASL PLAIN (RFC 4616) and LOGIN as challenge/response machines.

The protocol carries the lines; here they become a name and a password, or a complaint. Whether the
password is right is the Authenticator's business.

To add a mechanism: a class with ``step``, and a row in ``MECHANISMS``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .errors import PeerError

MAX_RESPONSE_BYTES = 12 * 1024  # of base64; the longest credential that RFC 4616 allows is 3 times 255 octets


@dataclass(frozen=True, slots=True)
class Challenge:
    """To be sent in base64; the answer goes into ``step``."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """What the client claims to be and to know."""

    username: str
    password: bytes

    def __repr__(self) -> str:
        return f"PasswordLogin(username={self.username!r})"


class Exchange(Protocol):
    def step(self, response: bytes | None) -> Challenge | PasswordLogin:
        """``None`` begins without an initial response. Raises PeerError; the exchange is over then."""
        ...


def decode_response(line: bytes) -> bytes:
    """One line of the client. Raises PeerError for a cancel (``*``) and for anything but strict base64."""
    if line == b"*":
        raise PeerError("Authentication cancelled")
    if len(line) > MAX_RESPONSE_BYTES:
        raise PeerError("Authentication response too long")
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error as error:
        raise PeerError("Authentication response is not base64") from error


def decode_initial(argument: bytes) -> bytes:
    """An initial response, where ``=`` stands for an empty one (RFC 4954 §4, RFC 5034 §4)."""
    return b"" if argument == b"=" else decode_response(argument)


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerError("User name is not UTF-8") from error
    if not text or "\0" in text:
        raise PeerError("User name is empty or contains NUL")
    return text


class Plain:
    """RFC 4616. An authorization identity is taken only when it equals the authentication identity."""

    __slots__ = ()

    def step(self, response: bytes | None) -> Challenge | PasswordLogin:
        if response is None:
            return Challenge(b"")
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise PeerError("Authentication response has the wrong form")
        authzid, authcid, password = parts
        if authzid not in (b"", authcid):
            raise PeerError("Acting for another user is not supported")
        if not password:
            raise PeerError("Password is empty")
        return PasswordLogin(_text(authcid), password)


class Login:
    """The obsolete LOGIN mechanism, which old clients still prefer: asks for the name, then the password."""

    __slots__ = ("_username",)

    def __init__(self) -> None:
        self._username: str | None = None

    def step(self, response: bytes | None) -> Challenge | PasswordLogin:
        if response is None:
            return Challenge(b"Username:")
        if self._username is None:
            self._username = _text(response)
            return Challenge(b"Password:")
        if not response or b"\0" in response:
            raise PeerError("Password is empty or contains NUL")
        return PasswordLogin(self._username, response)


MECHANISMS: Mapping[str, Callable[[], Exchange]] = {"PLAIN": Plain, "LOGIN": Login}
