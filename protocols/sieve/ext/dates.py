"""date and index (RFC 5260)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ..bound import Bound
from ..matching import MATCH_TAGS, Matching
from ..scopes import INDEX_TAGS, field_choice
from ..spec import STRING, STRINGS, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from datetime import tzinfo

    from ..run import Run

_ZONE = re.compile(r"([+-])([0-9]{2})([0-5][0-9])")
_LEAP_SECOND = re.compile(r"(:59):60\b")  # no clock of ours has one (RFC 5322 §3.3 allows it)
_JULIAN_EPOCH = datetime(1858, 11, 17, tzinfo=UTC).toordinal()  # of the modified Julian day
MAX_DATE_BYTES = 1000


def zone_text(at: datetime) -> str:
    return at.strftime("%z")[:5] or "+0000"


def _iso(at: datetime) -> str:
    zone = zone_text(at)
    return f"{at:%Y-%m-%dT%H:%M:%S}{zone[:3]}:{zone[3:]}"


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# RFC 5260 §4.2
PARTS: dict[str, Callable[[datetime], str]] = {
    "year": lambda at: f"{at.year:04}",
    "month": lambda at: f"{at.month:02}",
    "day": lambda at: f"{at.day:02}",
    "date": lambda at: f"{at.year:04}-{at.month:02}-{at.day:02}",
    "julian": lambda at: str(at.toordinal() - _JULIAN_EPOCH),
    "hour": lambda at: f"{at.hour:02}",
    "minute": lambda at: f"{at.minute:02}",
    "second": lambda at: f"{at.second:02}",
    "time": lambda at: f"{at:%H:%M:%S}",
    "iso8601": _iso,
    "std11": lambda at: (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04}"
        f" {at:%H:%M:%S} {zone_text(at)}"
    ),
    "zone": zone_text,
    "weekday": lambda at: str((at.weekday() + 1) % 7),
}


def parse_zone(text: str) -> timezone | None:
    """RFC 5322 §3.3; None when it is none."""
    match = _ZONE.fullmatch(text)
    if match is None or int(match[2]) > 23:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def parse_date(raw: bytes) -> datetime | None:
    """The date of a field value; where there are semicolons what is behind the last (RFC 5260 §4)."""
    text = raw.rpartition(b";")[2][:MAX_DATE_BYTES].decode("ascii", "replace")
    text = _LEAP_SECOND.sub(r"\1:59", " ".join(text.split()))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _shift(bound: Bound) -> Callable[[Run, datetime], datetime | None]:
    """To the zone that is asked for; without one the server's."""
    zone = bound.tag_text("zone")
    if bound.chosen("zone") == "originalzone":
        return lambda _run, at: at

    if zone is not None and zone.constant is not None and parse_zone(zone.constant) is None:
        raise bound.fail(f':zone takes an offset such as "+0200", not {zone.constant[:20]!r}')

    def shift(run: Run, at: datetime) -> datetime | None:
        target: tzinfo | None = parse_zone(zone.value(run)) if zone else run.now.tzinfo
        try:
            return at.astimezone(target)
        except OverflowError:
            return None

    return shift


def _part(bound: Bound) -> Callable[[Run], Callable[[datetime], str] | None]:
    part = bound.text("part")
    if part.constant is not None and part.constant.lower() not in PARTS:
        raise bound.fail(f"a date has no part {part.constant[:40]!r}")
    return lambda run: PARTS.get(part.value(run).lower())


def _date(bound: Bound) -> Holds:
    name, fields = bound.text("header"), field_choice(bound)
    shift, part = _shift(bound), _part(bound)
    matching = Matching(bound, bound.texts("keys"))

    def values(run: Run) -> Iterator[str]:
        read = part(run)
        for field in fields(run, name.value(run)):
            run.budget.spend(8)
            at = parse_date(field.raw_value)
            shifted = None if at is None else shift(run, at)
            if read is not None and shifted is not None:
                yield read(shifted)

    return lambda run: matching.holds(run, values(run))


def _currentdate(bound: Bound) -> Holds:
    shift, part = _shift(bound), _part(bound)
    matching = Matching(bound, bound.texts("keys"))

    def holds(run: Run) -> bool:
        at, read = shift(run, run.now), part(run)
        return matching.holds(run, [] if at is None or read is None else [read(at)])

    return holds


_ZONE_TAGS = (Row("zone", STRING, group="zone"), Row("originalzone", group="zone"))
_PART = Slot("part", STRING)
_KEYS = Slot("keys", STRINGS)

EXTENSIONS = (
    Extension(
        "date",
        tests=(
            Test("date", _date, (Slot("header", STRING), _PART, _KEYS), (*MATCH_TAGS, *_ZONE_TAGS)),
            Test("currentdate", _currentdate, (_PART, _KEYS), (*MATCH_TAGS, _ZONE_TAGS[0])),
        ),
    ),
    Extension("index", tags={"date": INDEX_TAGS, "header": INDEX_TAGS, "address": INDEX_TAGS}),
)
