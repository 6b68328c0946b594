"""The keys of a cluster, and packets sealed with them: AES-GCM, memberlist's encryption versions 0 and 1.

A sealed packet is version (1 byte), nonce (12), ciphertext, tag (16). Sent is version 1 with the primary key;
taken is either version (0 pads the plaintext to blocks of 16, PKCS #7) with any key of the ring, in order.
Authenticated beside it: the label, for a datagram; the frame's header, then the label, for a stream. The
version is not: one that was changed shows as padding that is wrong, or that was left on.

Nonces are random: below 2**32 packets of a whole cluster with one key (12 days of 1,000 nodes) they are safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import PacketRejected, Reason

KEY_SIZES: Final = (16, 24, 32)
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD: Final = 1 + NONCE_BYTES + TAG_BYTES
_PADDED: Final = 0
_PLAIN: Final = 1
_VERSION: Final = bytes((_PLAIN,))
_BLOCK: Final = 16


def fingerprint(key: bytes) -> str:
    """Eight hexadecimal digits to tell keys apart in logs; says nothing about a random key."""
    return hashlib.blake2s(key, digest_size=4, person=b"sorakey").hexdigest()


def checked_key(key: bytes) -> bytes:
    """Raises ValueError unless it has 16, 24 or 32 bytes."""
    if len(key) not in KEY_SIZES:
        raise ValueError(f"a key has 16, 24 or 32 bytes, not {len(key)}")
    return bytes(key)


class KeyRing:
    """One or more keys; the first is the primary one. Changes are idempotent, as rotation needs it."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        """Raises ValueError for no key, or one of another size."""
        self._ciphers: dict[bytes, AESGCM] = {}
        self._sealing: AESGCM
        self.replace(keys)

    @property
    def keys(self) -> tuple[bytes, ...]:
        return tuple(self._ciphers)

    @property
    def primary(self) -> bytes:
        return next(iter(self._ciphers))

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(fingerprint(key) for key in self._ciphers)})"

    def install(self, key: bytes) -> None:
        """Take packets with this key too. Raises ValueError for its size."""
        if key not in self._ciphers:
            self._ciphers[bytes(key)] = AESGCM(checked_key(key))

    def use(self, key: bytes) -> None:
        """Make it the primary one. Raises ValueError when it is not installed."""
        if key not in self._ciphers:
            raise ValueError("this key is not in the ring")
        self.replace((key, *self._ciphers))

    def remove(self, key: bytes) -> None:
        """Raises ValueError for the primary one; one that is not there is removed already."""
        if key == self.primary:
            raise ValueError("the primary key cannot be removed")
        self._ciphers.pop(key, None)

    def replace(self, keys: Iterable[bytes]) -> None:
        """Raises ValueError, and keeps the old ones, for no key or one of another size."""
        ciphers = {bytes(key): AESGCM(checked_key(key)) for key in keys}
        if not ciphers:
            raise ValueError("a ring has at least one key")
        self._ciphers = ciphers
        self._sealing = next(iter(ciphers.values()))

    def seal(self, plain: bytes, nonce: bytes, aad: bytes) -> bytes:
        """``nonce``: 12 bytes, never the same twice. The result has ``OVERHEAD`` bytes more."""
        return _VERSION + nonce + self._sealing.encrypt(nonce, plain, aad or None)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Raises PacketRejected: TRUNCATED, VERSION, KEY."""
        if len(sealed) < OVERHEAD:
            raise PacketRejected(Reason.TRUNCATED, f"{len(sealed)} bytes sealed")
        if sealed[0] not in (_PADDED, _PLAIN):
            raise PacketRejected(Reason.VERSION, f"encryption {sealed[0]}")
        plain = self._decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], aad or None)
        return plain if sealed[0] == _PLAIN else _without_padding(plain)

    def _decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes | None) -> bytes:
        for cipher in self._ciphers.values():
            try:
                return cipher.decrypt(nonce, ciphertext, aad)
            except InvalidTag:
                continue
        raise PacketRejected(Reason.KEY)


def _without_padding(plain: bytes) -> bytes:
    size = plain[-1] if plain else 0
    if not 1 <= size <= _BLOCK or len(plain) % _BLOCK or plain[-size:] != bytes((size,)) * size:
        raise PacketRejected(Reason.MALFORMED, "padding")
    return plain[:-size]
