"""duplicate (RFC 7352)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.fingerprint import fingerprint

from ..bound import Bound
from ..outcome import Seen
from ..questions import SeenBefore
from ..spec import NUMBER, STRING, Extension, Holds, Row, Test

if TYPE_CHECKING:
    from ..run import Run

DEFAULT_S = 7 * 86400
MAX_S = 90 * 86400


def _duplicate(bound: Bound) -> Holds:
    handle, header = bound.tag_text("handle"), bound.tag_text("id")
    by_id = bound.chosen("id") == "uniqueid"
    seconds = bound.tag_number("seconds")
    period_s = min(DEFAULT_S if seconds is None else seconds, MAX_S)
    refreshes = bound.has("last")

    def holds(run: Run) -> bool:
        if by_id:
            value = header.value(run) if header else ""
        else:
            values = run.fields.values(header.value(run) if header else "message-id")
            value = values[0] if values else ""
        if not value:
            return False
        key = fingerprint(b"", handle.value(run) if handle else "", "" if by_id else "header", value)
        was_seen = bool(run.ask(SeenBefore(key)))
        if period_s and (refreshes or not was_seen):
            run.seen.append(Seen(key, period_s))
        return was_seen

    return holds


EXTENSIONS = (
    Extension(
        "duplicate",
        tests=(
            Test(
                "duplicate",
                _duplicate,
                tags=(
                    Row("handle", STRING),
                    Row("header", STRING, group="id"),
                    Row("uniqueid", STRING, group="id"),
                    Row("seconds", NUMBER),
                    Row("last"),
                ),
                leaves_trace=True,
            ),
        ),
    ),
)
