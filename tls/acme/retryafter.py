"""How long a CA asks us to wait. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_S = 7 * 86400.0  # the longest window of a rate limit; more is an error of theirs


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from 0 to LONGEST_S, of a Retry-After header (RFC 9110 §10.2.3); None: absent or senseless."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) < 12:
        return min(float(text), LONGEST_S)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for numbers that no date has
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max((when - now).total_seconds(), 0.0), LONGEST_S)
