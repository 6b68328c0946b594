"""Names of scripts, as RFC 5804 §1.6 wants them."""

from __future__ import annotations

import re
import unicodedata

# RFC 5804 §1.6: at least 128 characters, which are up to 512 octets of UTF-8.
MAX_NAME_CHARS = 128
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class BadName(ValueError):
    """The text says what is wrong, fit for the user."""


def script_name(raw: bytes) -> str:
    """The name in normalization form C: typed on another system it is the same name (RFC 5198 §3).

    Raises BadName. It is never shortened.
    """
    try:
        name = unicodedata.normalize("NFC", raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadName("A script name is UTF-8") from None
    if not name:
        raise BadName("A script name is not empty")
    if len(name) > MAX_NAME_CHARS:
        raise BadName(f"A script name has at most {MAX_NAME_CHARS} characters")
    if _FORBIDDEN.search(name):
        raise BadName("A script name has no control characters")
    return name
