"""Names of things that are done once: the same for the same words, different for all others. Pure."""

from __future__ import annotations

import hashlib


def fingerprint(first: bytes, *words: str) -> bytes:
    """32 octets. No two lists of words share one, wherever their ends are. ``first`` has one length, or is
    followed by the same number of words, wherever fingerprints are compared."""
    digest = hashlib.sha256(first)
    for word in words:
        raw = word.encode("utf-8", "surrogatepass")  # of the peer's: also what is not UTF-8
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.digest()
