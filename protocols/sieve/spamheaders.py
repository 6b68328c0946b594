"""What spam filters in front wrote into the header, for spamtest and virustest (RFC 5235).

The MTA has to remove such fields from what comes from outside; whoever sends mail could write them.
"""

from __future__ import annotations

import re

from storage.mime.headers import all_values, first_value

_SCORE = re.compile(rb"\bscore=(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)")
_REQUIRED = re.compile(rb"\brequired=([0-9]{1,6}(?:\.[0-9]{1,6})?)")
_OF = re.compile(rb"\s*(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)\s*/\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)")
# A score that is as high as required is spam for sure at this many percent; twice as much at 100.
SPAM_PERCENT = 50.0


def spam_percent(header: bytes) -> float | None:
    """0 to 100; None when no filter has looked. SpamAssassin's X-Spam-Status, Rspamd's X-Rspamd-Score or
    X-Spamd-Result (``score / required``), X-Spam-Flag."""
    status = first_value(header, b"x-spam-status") or b""
    score, required = _SCORE.search(status), _REQUIRED.search(status)
    if score and required:
        return _percent(float(score[1]), float(required[1]))
    for name in (b"x-rspamd-score", b"x-spamd-result"):
        match = _OF.search((first_value(header, name) or b"")[:1000])
        if match:
            return _percent(float(match[1]), float(match[2]))
    flag = (first_value(header, b"x-spam-flag") or b"").upper()
    return {b"YES": 100.0, b"NO": 0.0}.get(flag)


def _percent(score: float, required: float) -> float:
    share = score / required if required > 0 else float(score > 0) * 2
    return min(max(share * SPAM_PERCENT, 0.0), 100.0)


def virus_value(header: bytes) -> int | None:
    """1 clean to 5 infected (RFC 5235 §2.2), from X-Virus-Status; None when no scanner has looked."""
    values = [value.lower() for value in all_values(header, b"x-virus-status")]
    if any(value.startswith((b"yes", b"infected")) for value in values):
        return 5
    return 1 if any(value.startswith((b"no", b"clean")) for value in values) else None
