"""Password hash schemes: one row per scheme, from its name to what checks and makes it.

A stored hash is ``{SCHEME}data`` as Dovecot writes it, or bare ``$id$...`` where the id names the scheme.
``{SCHEME.HEX}`` and ``{SCHEME.B64}`` say how the data is encoded. Every row validates form and cost
before a library sees the data, so that a stored hash can neither raise something unforeseen nor keep a
core busy for more than a few seconds.

To add a scheme: write its check, add a row to SCHEMES (and to BY_IDENT when it has a ``$id$``), add a
vector made by an independent program to tests/node/test_passwords.py.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import bcrypt
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError
from argon2.low_level import Type, error_to_str, hash_secret, verify_secret
from passlib.hash import sha256_crypt, sha512_crypt


class BadHash(ValueError):
    """A stored hash that cannot be checked; the message never contains the hash."""


# The default profile: the smallest that OWASP recommends; 17 to 35 ms of CPU, by machine.
ARGON2_MEMORY_KIB = 19 * 1024
ARGON2_PASSES = 2
ARGON2_LANES = 1

# Costs above these are refused: each is a few seconds of CPU, more than any client waits.
MAX_ARGON2_MEMORY_KIB = 1024 * 1024
MAX_ARGON2_WORK_KIB = 4 * 1024 * 1024  # memory times passes
MAX_ARGON2_LANES = 16
MAX_BCRYPT_COST = 15
MAX_SHA_CRYPT_ROUNDS = 1_000_000
MAX_PBKDF2_ROUNDS = 5_000_000

BCRYPT_MAX_PASSWORD_BYTES = 72  # what is beyond was never hashed by any bcrypt
BCRYPT_COST = 12
SHA_CRYPT_ROUNDS = 50_000  # 38 ms in pure Python, which holds the GIL
PBKDF2_ROUNDS = 500_000
SALT_BYTES = 16

_ARGON2_OUT_OF_MEMORY = error_to_str(-22)  # ARGON2_MEMORY_ALLOCATION_ERROR in argon2.h
_ARGON2 = re.compile(
    r"\$(argon2id|argon2i)\$(?:v=(16|19)\$)?m=([1-9]\d{0,7}),t=([1-9]\d{0,4}),p=([1-9]\d?)"
    r"\$[A-Za-z0-9+/]{11,128}\$[A-Za-z0-9+/]{16,256}",
    re.ASCII,
)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_SHA_CRYPT = re.compile(
    r"\$([56])\$(?:rounds=([1-9]\d{3,6})\$)?[./A-Za-z0-9]{0,16}\$(?:[./A-Za-z0-9]{43}|[./A-Za-z0-9]{86})",
    re.ASCII,
)
_PBKDF2 = re.compile(r"\$1\$([!-#%-~]{1,64})\$([1-9]\d{0,7})\$([0-9a-fA-F]{40})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scheme:
    """``check(data, password)`` raises BadHash; ``make(password)`` returns the data, salted afresh.

    ``is_text``: the data is the hash string itself, otherwise raw digest bytes in base64 or hex.
    ``is_costly``: checking takes milliseconds by design, as it must to resist guessing.
    """

    check: Callable[[Any, bytes], bool]
    make: Callable[[bytes], str] | None = None
    is_text: bool = True
    is_costly: bool = True
    digest_bytes: int = 0  # of unsalted digests, which Dovecot also accepts in hex without a suffix


# --- argon2 ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    variant: str
    memory_kib: int
    passes: int
    lanes: int


def argon2_cost(data: str) -> Argon2Cost:
    """Raises BadHash for what is not argon2 or costs more than we are ready to spend."""
    found = _ARGON2.fullmatch(data)
    if found is None:
        raise BadHash("malformed argon2 hash")
    cost = Argon2Cost(found[1], *(int(found[n]) for n in (3, 4, 5)))
    if (
        cost.memory_kib > MAX_ARGON2_MEMORY_KIB
        or cost.memory_kib * cost.passes > MAX_ARGON2_WORK_KIB
        or cost.lanes > MAX_ARGON2_LANES
    ):
        raise BadHash("argon2 cost above the limit")
    return cost


def _check_argon2(variant: str, data: str, password: bytes) -> bool:
    if argon2_cost(data).variant != variant:
        raise BadHash("argon2 variant differs from the scheme")
    try:
        return verify_secret(data.encode("ascii"), password, _ARGON2_TYPES[variant])
    except VerifyMismatchError:
        return False
    except VerificationError as error:
        if str(error) == _ARGON2_OUT_OF_MEMORY:
            raise MemoryError("no memory to check an argon2 hash") from error
        raise BadHash("malformed argon2 hash") from error


def _make_argon2(variant: str, password: bytes) -> str:
    try:
        made = hash_secret(
            password,
            secrets.token_bytes(SALT_BYTES),
            time_cost=ARGON2_PASSES,
            memory_cost=ARGON2_MEMORY_KIB,
            parallelism=ARGON2_LANES,
            hash_len=32,
            type=_ARGON2_TYPES[variant],
        )
    except HashingError as error:  # password and costs are in range, so this is the memory
        raise MemoryError("no memory to make an argon2 hash") from error
    return made.decode("ascii")


_ARGON2_TYPES = {"argon2id": Type.ID, "argon2i": Type.I}


# --- crypt(3) families ----------------------------------------------------------------------------


def _check_bcrypt(data: str, password: bytes) -> bool:
    found = _BCRYPT.fullmatch(data)
    if found is None:
        raise BadHash("malformed bcrypt hash")
    if not 4 <= int(found[1]) <= MAX_BCRYPT_COST:
        raise BadHash("bcrypt cost out of range")
    try:
        return bcrypt.checkpw(password[:BCRYPT_MAX_PASSWORD_BYTES], data.encode("ascii"))
    except ValueError as error:
        raise BadHash("malformed bcrypt hash") from error


def _make_bcrypt(password: bytes) -> str:
    salt = bcrypt.gensalt(BCRYPT_COST)
    return bcrypt.hashpw(password[:BCRYPT_MAX_PASSWORD_BYTES], salt).decode("ascii")


def _check_sha_crypt(ident: str, data: str, password: bytes) -> bool:
    found = _SHA_CRYPT.fullmatch(data)
    if found is None or found[1] != ident:
        raise BadHash("malformed SHA-crypt hash")
    if int(found[2] or 5000) > MAX_SHA_CRYPT_ROUNDS:
        raise BadHash("SHA-crypt rounds above the limit")
    try:
        return bool(_SHA_CRYPT_HANDLERS[ident].verify(password, data))
    except ValueError as error:
        raise BadHash("malformed SHA-crypt hash") from error


def _make_sha_crypt(ident: str, password: bytes) -> str:
    return str(_SHA_CRYPT_HANDLERS[ident].using(rounds=SHA_CRYPT_ROUNDS).hash(password))


_SHA_CRYPT_HANDLERS: Mapping[str, Any] = {"5": sha256_crypt, "6": sha512_crypt}


def _check_crypt(data: str, password: bytes) -> bool:
    """``{CRYPT}``: whatever its ``$id$`` says."""
    name = scheme_of_ident(data)
    if name is None:
        raise BadHash("crypt hash of an unknown kind")
    return SCHEMES[name].check(data, password)


# --- PBKDF2 as Dovecot stores it: $1$salt$rounds$hex, HMAC-SHA-1, 20 bytes ------------------------


def _pbkdf2(password: bytes, salt: str, rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha1", password, salt.encode("ascii"), rounds, 20)


def _check_pbkdf2(data: str, password: bytes) -> bool:
    found = _PBKDF2.fullmatch(data)
    if found is None:
        raise BadHash("malformed PBKDF2 hash")
    rounds = int(found[2])
    if rounds > MAX_PBKDF2_ROUNDS:
        raise BadHash("PBKDF2 rounds above the limit")
    return hmac.compare_digest(_pbkdf2(password, found[1], rounds), bytes.fromhex(found[3]))


def _make_pbkdf2(password: bytes) -> str:
    salt = secrets.token_hex(SALT_BYTES)
    return f"$1${salt}${PBKDF2_ROUNDS}${_pbkdf2(password, salt, PBKDF2_ROUNDS).hex()}"


# --- plain digests, salted (digest, then salt) or not ---------------------------------------------


def _check_digest(algorithm: str, digest: bytes, password: bytes) -> bool:
    expected = hashlib.new(algorithm, password).digest()
    if len(digest) != len(expected):
        raise BadHash("digest of the wrong length")
    return hmac.compare_digest(digest, expected)


def _check_salted(algorithm: str, raw: bytes, password: bytes) -> bool:
    size = hashlib.new(algorithm).digest_size
    if len(raw) <= size:
        raise BadHash("salted digest too short")
    return hmac.compare_digest(raw[:size], hashlib.new(algorithm, password + raw[size:]).digest())


def _make_salted(algorithm: str, password: bytes) -> str:
    salt = secrets.token_bytes(SALT_BYTES)
    return base64.b64encode(hashlib.new(algorithm, password + salt).digest() + salt).decode("ascii")


def _check_plain(data: str, password: bytes) -> bool:
    return hmac.compare_digest(data.encode("utf-8", "replace"), password)


def _digest(algorithm: str) -> Scheme:
    return Scheme(
        partial(_check_digest, algorithm),
        is_text=False,
        is_costly=False,
        digest_bytes=hashlib.new(algorithm).digest_size,
    )


def _salted(algorithm: str, *, can_make: bool = False) -> Scheme:
    make = partial(_make_salted, algorithm) if can_make else None
    return Scheme(partial(_check_salted, algorithm), make, is_text=False, is_costly=False)


SCHEMES: Mapping[str, Scheme] = {
    "ARGON2ID": Scheme(partial(_check_argon2, "argon2id"), partial(_make_argon2, "argon2id")),
    "ARGON2I": Scheme(partial(_check_argon2, "argon2i")),
    "BLF-CRYPT": Scheme(_check_bcrypt, _make_bcrypt),
    "SHA512-CRYPT": Scheme(partial(_check_sha_crypt, "6"), partial(_make_sha_crypt, "6")),
    "SHA256-CRYPT": Scheme(partial(_check_sha_crypt, "5")),
    "CRYPT": Scheme(_check_crypt),
    "PBKDF2": Scheme(_check_pbkdf2, _make_pbkdf2),
    "SSHA512": _salted("sha512", can_make=True),
    "SSHA256": _salted("sha256"),
    "SSHA": _salted("sha1"),
    "SHA512": _digest("sha512"),
    "SHA256": _digest("sha256"),
    "SHA": _digest("sha1"),
    "SHA1": _digest("sha1"),
    "PLAIN": Scheme(_check_plain, is_costly=False),
    "CLEAR": Scheme(_check_plain, is_costly=False),
    "CLEARTEXT": Scheme(_check_plain, is_costly=False),
}
PLAIN_SCHEMES = frozenset({"PLAIN", "CLEAR", "CLEARTEXT"})
BY_IDENT: Mapping[str, str] = {
    "argon2id": "ARGON2ID",
    "argon2i": "ARGON2I",
    "2a": "BLF-CRYPT",
    "2b": "BLF-CRYPT",
    "2y": "BLF-CRYPT",
    "5": "SHA256-CRYPT",
    "6": "SHA512-CRYPT",
}


def scheme_of_ident(data: str) -> str | None:
    """``$id$...`` to the scheme's name."""
    parts = data.split("$", 2)
    return BY_IDENT.get(parts[1]) if len(parts) == 3 and not parts[0] else None


def decode_digest(text: str, encoding: str, scheme: Scheme) -> bytes:
    """Raw bytes of digest data; ``encoding`` is HEX, B64, BASE64 or empty. Raises BadHash."""
    is_bare_hex = not encoding and scheme.digest_bytes and len(text) == 2 * scheme.digest_bytes
    try:
        if encoding == "HEX" or is_bare_hex:
            return bytes.fromhex(text)
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadHash("digest is neither base64 nor hex as announced") from error
