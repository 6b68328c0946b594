"""Text of any octets inside one word of a command: xtext (RFC 3461 §4). Pure."""

from __future__ import annotations

import re
from typing import Final

_XTEXT: Final = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_CODED: Final = re.compile(r"\+([0-9A-F]{2})")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class BadText(ValueError):
    """No xtext, or what it stands for is no text that may be shown."""


def is_xtext(text: str) -> bool:
    return _XTEXT.fullmatch(text) is not None


def decode_xtext(text: str) -> str:
    """The text that is meant. Raises BadText: other characters than xtext has, no UTF-8, or controls."""
    if not is_xtext(text):
        raise BadText("not xtext")
    raw = _CODED.sub(lambda match: chr(int(match[1], 16)), text).encode("latin-1")
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadText("not UTF-8") from None
    if _CONTROLS.search(decoded):
        raise BadText("controls")
    return decoded


def encode_xtext(text: str) -> str:
    """In its shortest form; octets that are no printable ASCII as ``+XX``."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8", "replace")
    )
