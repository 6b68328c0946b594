"""When a CA wants a certificate renewed (RFC 9773). Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from ..ports import Renewal
from .problems import clean

SOONEST_S, LATEST_S, DEFAULT_S = 60.0, 86400.0, 6 * 3600.0  # RFC 9773 §4.3.1 and §4.3.2


def certificate_id(leaf: x509.Certificate) -> str | None:
    """RFC 9773 §4.1: key identifier of the issuer, a dot, serial number. None: it has no key identifier."""
    try:
        extension = leaf.extensions.get_extension_for_oid(ExtensionOID.AUTHORITY_KEY_IDENTIFIER).value
    except x509.ExtensionNotFound:
        return None
    assert isinstance(extension, x509.AuthorityKeyIdentifier)
    if extension.key_identifier is None:
        return None
    serial = leaf.serial_number
    content = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # DER: room for the sign
    return f"{_base64url(extension.key_identifier)}.{_base64url(content)}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def parse_renewal(document: object, retry_after_s: float | None) -> Renewal | None:
    """None: senseless, above all a window that ends before it begins (RFC 9773 §4.2)."""
    window = document.get("suggestedWindow") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(window, Mapping):
        return None
    start, end = _time(window.get("start")), _time(window.get("end"))
    if start is None or end is None or end <= start:
        return None
    explanation = document.get("explanationURL")
    return Renewal(
        start=start,
        end=end,
        ask_again_s=DEFAULT_S if retry_after_s is None else min(max(retry_after_s, SOONEST_S), LATEST_S),
        explanation=clean(explanation) if isinstance(explanation, str) else "",
    )


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
        return when.astimezone(UTC) if when.tzinfo is not None else None
    except (ValueError, OverflowError):  # the latter at both ends of the calendar
        return None
