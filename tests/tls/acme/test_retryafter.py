from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tls.acme.retryafter import LONGEST_S, parse_retry_after

NOW = datetime(2031, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("99999999999", LONGEST_S),
        ("999999999999999", None),
        ("Wed, 01 Jan 2031 12:01:00 GMT", 60.0),
        ("Wed, 01 Jan 2031 13:01:00 +0100", 60.0),
        ("Wed, 01 Jan 2031 12:01:00", 60.0),
        ("Wed, 01 Jan 2031 11:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2099 11:00:00 GMT", LONGEST_S),
        ("-5", None),
        ("1.5", None),
        ("\u0663", None),
        ("", None),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Wed, 21 Oct 2026 07:28:00 +99999999999999999999", None),
    ],
)
def test_values(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
