"""Passwords and their stored hashes.

A password is the bytes the client sent, by convention UTF-8. They are hashed as they are: no Unicode
normalization, because hashes that came from other servers were made without any and would stop
matching. Empty passwords, those with a NUL (C implementations end there, so that anything beyond would
not count) and those above 1,024 bytes are refused before anything is looked up.

New hashes are ``{ARGON2ID}`` of the default profile. What is stored otherwise still verifies and is
replaced at the next login (``needs_upgrade``).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from . import hashschemes
from .hashschemes import PLAIN_SCHEMES, SCHEMES, BadHash, Scheme, argon2_cost, decode_digest, scheme_of_ident

__all__ = [
    "CREATABLE_SCHEMES",
    "DEFAULT_SCHEME",
    "BadHash",
    "StoredHash",
    "generate_password",
    "hash_password",
    "is_costly",
    "needs_upgrade",
    "parse_hash",
    "refusal",
    "verify",
]

DEFAULT_SCHEME = "ARGON2ID"
CREATABLE_SCHEMES = tuple(name for name, scheme in SCHEMES.items() if scheme.make)
MAX_PASSWORD_BYTES = 1024
MAX_HASH_CHARS = 1024
GENERATED_GROUPS = 4
# Without l, o, 0 and 1, which are mistaken for others; 4 groups of 5 make 100 bits.
_GENERATED_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_PREFIXED = re.compile(r"\{([A-Za-z0-9-]{1,32})(?:\.(HEX|B64|BASE64))?\}(.*)", re.ASCII | re.DOTALL | re.I)


@dataclass(frozen=True, slots=True)
class StoredHash:
    """A hash taken apart; its form inside is the scheme's business."""

    scheme_name: str  # upper case
    scheme: Scheme
    data: str | bytes

    def __repr__(self) -> str:
        return f"StoredHash({self.scheme_name})"


def refusal(password: bytes) -> str | None:
    """Why these bytes cannot be a password; None when they can."""
    if not password:
        return "the password is empty"
    if len(password) > MAX_PASSWORD_BYTES:
        return f"the password is longer than {MAX_PASSWORD_BYTES} bytes"
    if b"\0" in password:
        return "the password contains a NUL byte"
    return None


def parse_hash(stored: str) -> StoredHash:
    """Raises BadHash, whose message is fit for logs and operators."""
    if len(stored) > MAX_HASH_CHARS:
        raise BadHash("hash too long")
    found = _PREFIXED.fullmatch(stored)
    if found is None:
        name = scheme_of_ident(stored)
        if name is None:
            raise BadHash("no scheme: expected {SCHEME}... or $id$...")
        return StoredHash(name, SCHEMES[name], stored)
    name, encoding, text = found[1].upper(), (found[2] or "").upper(), found[3]
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise BadHash("unknown scheme")
    if scheme.is_text and not encoding:
        return StoredHash(name, scheme, text)
    raw = decode_digest(text, encoding, scheme)
    return StoredHash(name, scheme, _as_text(raw) if scheme.is_text else raw)


def _as_text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadHash("encoded hash is not text") from error


def verify(stored: str, password: bytes, *, allow_plain: bool = False) -> bool:
    """Whether ``password`` is the one of ``stored``. Blocks for the scheme's cost; releases the GIL
    except for the SHA-crypt family.

    Raises:
        BadHash: the hash is malformed, too expensive, or of a scheme we do not take.
        MemoryError: the check needs more memory than there is; says nothing about the password.
    """
    if refusal(password):
        return False
    parsed = parse_hash(stored)
    if parsed.scheme_name in PLAIN_SCHEMES and not allow_plain:
        raise BadHash("passwords stored in plain text are not accepted")
    return parsed.scheme.check(parsed.data, password)


def hash_password(password: bytes, scheme_name: str = DEFAULT_SCHEME) -> str:
    """A fresh ``{SCHEME}`` hash. Blocks for the scheme's cost.

    Raises ValueError for a password that ``refusal`` refuses and for a scheme not in CREATABLE_SCHEMES.
    """
    reason = refusal(password)
    if reason:
        raise ValueError(reason)
    make = SCHEMES[scheme_name].make if scheme_name in SCHEMES else None
    if make is None:
        raise ValueError(f"cannot make hashes of scheme {scheme_name}")
    return f"{{{scheme_name}}}{make(password)}"


def needs_upgrade(stored: str) -> bool:
    """Whether a hash that just verified is weaker than, or of another kind than, the default profile."""
    parsed = parse_hash(stored)
    if not isinstance(parsed.data, str) or scheme_of_ident(parsed.data) != DEFAULT_SCHEME:
        return True
    cost = argon2_cost(parsed.data)
    return (
        cost.memory_kib < hashschemes.ARGON2_MEMORY_KIB
        or cost.passes < hashschemes.ARGON2_PASSES
        or cost.lanes < hashschemes.ARGON2_LANES
    )


def is_costly(stored: str) -> bool:
    """Whether checking takes milliseconds, as of schemes made to resist guessing. Raises BadHash."""
    return parse_hash(stored).scheme.is_costly


def generate_password() -> str:
    """One that can be read aloud and typed: ``xxxxx-xxxxx-xxxxx-xxxxx``."""
    return "-".join(
        "".join(secrets.choice(_GENERATED_ALPHABET) for _ in range(5)) for _ in range(GENERATED_GROUPS)
    )
