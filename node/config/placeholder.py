"""Tells values copied from an example from real ones."""

from __future__ import annotations

import re

_WHOLE = re.compile(
    r"""
      your[ _-].*                              # YOUR_S3_SECRET_KEY, your-secure-api-key
    | <.*>                                     # <password>
    | change[ _-]?(me|this|it).*               # changeme
    | replace[ _-]?(me|this|with|by).*
    | (a[ _-])?(\d+[ _-]byte[ _-])?(base64|hex)[ _-]encoded[ _-].*  # base64-encoded-secret-key
    | .*[ _-](goes[ _-])?here
    | .*placeholder.*
    | (todo|fixme|xxx+|\.{3,}|\*{3,})
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_PREFIX = re.compile(r"your[_-]", re.IGNORECASE)


def is_placeholder(text: str) -> bool:
    """Whether a secret is certainly none."""
    return _WHOLE.fullmatch(text.strip()) is not None


def looks_unedited(text: str) -> bool:
    """The narrower test for values that are not secret: ``your-bucket``."""
    return _PREFIX.match(text.strip()) is not None
