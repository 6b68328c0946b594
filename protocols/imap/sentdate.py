"""The calendar day a Date field names, read from whatever senders have written there.

SEARCH SENTBEFORE, SENTON and SENTSINCE compare the day as written, disregarding time and zone
(RFC 9051 §6.4.4), so nothing behind the year matters and no zone table is needed.
"""

from __future__ import annotations

import re
from datetime import date

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        # RFC 5322 §3.3 and its obsolete two-digit years; hyphens as in RFC 850
        rf"(?<!\d)(?P<day>\d{{1,2}})[\s,.-]*{_MONTH}[\s,-]*(?P<year>\d{{4}}|\d{{2,3}})(?![\d:])",
        # asctime: Thu Feb  3 10:00:00 2005, a zone name may stand before the year
        rf"{_MONTH}\s+(?P<day>\d{{1,2}}),?\s+(?:\d{{1,2}}:\d\d(?::\d\d)?\s+)?(?:[A-Z]+\s+)?(?P<year>\d{{4}})",
        # ISO 8601
        r"(?<!\d)(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)(?!\d)",
    )
)
_COMMENT = re.compile(r"\([^()]{0,200}\)")
_MAX_FIELD = 200  # characters looked at; real Date fields have about 40


def parse_sent_day(field: str) -> date | None:
    """None when no day can be made out."""
    text = _COMMENT.sub(" ", field[:_MAX_FIELD])
    for form in _FORMS:
        match = form.search(text)
        if match is not None:
            return _day(match["year"], match["month"], match["day"])
    return None


def _day(year: str, month: str, day: str) -> date | None:
    number = _MONTHS.get(month[:3].lower()) or int(month)
    try:
        return date(_full_year(year), number, int(day))
    except ValueError:
        return None


def _full_year(year: str) -> int:
    """RFC 5322 §4.3: two digits below 50 are of this century, three digits count from 1900."""
    value = int(year)
    if len(year) == 4:
        return value
    return value + (2000 if len(year) == 2 and value < 50 else 1900)


EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
DAY_S = 86_400


def midnight(day: date) -> int:
    """Seconds since the epoch at which that day begins, UTC."""
    return (day.toordinal() - EPOCH_ORDINAL) * DAY_S
