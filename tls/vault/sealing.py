"""Objects sealed before they leave the process: XSalsa20-Poly1305 under keys that all nodes derive.

Pure; nonces are arguments. A sealed object is

    1 octet version | 1 octet key id | 24 octets nonce | box

and the box holds the object's label before its content. There is no associated data in a SecretBox: the
label is what says, once opened, that an object is where it was put, and not another one copied over it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

VERSION = 1
NONCE_BYTES = SecretBox.NONCE_SIZE
OVERHEAD_BYTES = 2 + NONCE_BYTES + SecretBox.MACBYTES  # and the label with its length
SECRET_BYTES_MIN = 16
_INFO = b"sora certificate store, version 1"
_LENGTH_BYTES = 2


class Kind(enum.Enum):
    ACCOUNT = "account"
    CERTIFICATE = "certs"
    CHALLENGE = "challenges"
    ORDER = "orders"


class Reason(enum.Enum):
    """Why an object is not used; the values are metric labels."""

    CORRUPT = "corrupt"  # not ours, cut short, altered, or sealed with a key of the same id
    OTHER_VERSION = "other_version"  # of a program newer than this one
    OTHER_KEY = "other_key"  # sealed with a key that this node does not have
    MISPLACED = "misplaced"  # sealed for another place
    INVALID = "invalid"  # opened, but it does not say what it should
    VANISHED = "vanished"  # listed, and then not there


class NotUsable(Exception):
    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Label:
    """What an object is. ``subject``: a wanted id or a token, empty for an account."""

    kind: Kind
    ca_id: str
    subject: str = ""
    fence: int = 0

    @property
    def text(self) -> str:
        return "/".join((self.kind.value, self.ca_id, self.subject, str(self.fence)))


class _Key:
    __slots__ = ("box", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"a secret of at least {SECRET_BYTES_MIN} octets is needed to seal certificates")
        derived = HKDF(SHA256(), SecretBox.KEY_SIZE + 1, salt=None, info=_INFO).derive(secret)
        self.box = SecretBox(derived[: SecretBox.KEY_SIZE])
        self.id = derived[SecretBox.KEY_SIZE]


class Seals:
    """Seals with the first of ``secrets`` and opens with each: a rotation puts the new one in front, and the
    old one may go when no object needs it any more. Raises ValueError for a secret that is too short.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("no secret to seal certificates with")
        self._keys = [_Key(secret) for secret in secrets]

    @property
    def key_id(self) -> int:
        """Of the key that seals."""
        return self._keys[0].id

    def seal(self, label: Label, content: bytes, nonce: bytes) -> bytes:
        """``nonce``: NONCE_BYTES at random, never used twice."""
        key = self._keys[0]
        text = label.text.encode("ascii")
        plain = len(text).to_bytes(_LENGTH_BYTES, "big") + text + content
        return bytes((VERSION, key.id)) + key.box.encrypt(plain, nonce)

    def open(self, label: Label, sealed: bytes) -> bytes:
        """Raises NotUsable."""
        if len(sealed) < OVERHEAD_BYTES + _LENGTH_BYTES:
            raise NotUsable(Reason.CORRUPT, "it is too short for a sealed object")
        if sealed[0] != VERSION:
            raise NotUsable(
                Reason.OTHER_VERSION, f"it is sealed in version {sealed[0]}, which is unknown here"
            )
        plain = self._decrypt(sealed)
        length = int.from_bytes(plain[:_LENGTH_BYTES], "big")
        found = plain[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if found != label.text.encode("ascii"):
            raise NotUsable(Reason.MISPLACED, f"it was sealed as {found.decode('ascii', 'replace')}")
        return plain[_LENGTH_BYTES + length :]

    def _decrypt(self, sealed: bytes) -> bytes:
        keys = [key for key in self._keys if key.id == sealed[1]]
        if not keys:
            raise NotUsable(
                Reason.OTHER_KEY,
                f"it is sealed with a key (id {sealed[1]}) that is not among ours"
                f" ({', '.join(str(key.id) for key in self._keys)})",
            )
        for key in keys:
            try:
                return key.box.decrypt(sealed[2:])
            except CryptoError:
                continue
        raise NotUsable(Reason.CORRUPT, "it was altered, or sealed with another key")
