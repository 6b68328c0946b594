"""Reasons of a revocation, as operators spell them (RFC 5280 §5.3.1)."""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "unspecified": 0,
    "key-compromise": 1,
    "affiliation-changed": 3,
    "superseded": 4,
    "cessation-of-operation": 5,
}
