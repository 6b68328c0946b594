"""vacation (RFC 5230) and vacation-seconds (RFC 6131)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.fingerprint import fingerprint

from ..bound import Bound
from ..errors import RunFault
from ..outcome import Vacation
from ..spec import NUMBER, STRING, STRINGS, Command, Do, Extension, Row, Slot
from .actions import check_sender, place_of

if TYPE_CHECKING:
    from ..run import Run

DAY_S = 86400
DEFAULT_S = 7 * DAY_S
MAX_S = 365 * DAY_S
MAX_SUBJECT_CHARS = 500


def _period(bound: Bound) -> int:
    """RFC 5230 §4.1: at least a day, unless it is given in seconds (RFC 6131 §2)."""
    value = bound.tag_number("period")
    if value is None:
        return DEFAULT_S
    seconds = value if bound.chosen("period") == "seconds" else max(value, 1) * DAY_S
    return min(seconds, MAX_S)


def _vacation(bound: Bound) -> Do:
    line, reason, period_s = bound.line, bound.text("reason"), _period(bound)
    subject, sender = bound.tag_text("subject"), bound.tag_text("from")
    addresses, handle = bound.tag_texts("addresses"), bound.tag_text("handle")
    is_mime, fcc, place = bound.has("mime"), bound.tag_text("fcc"), place_of(bound)

    def vacation(run: Run) -> None:
        if any(isinstance(action, Vacation) for action in run.actions):
            raise RunFault(f"line {line}: a second vacation for one message")
        head = (reason.value(run), subject.value(run) if subject else "", sender.value(run) if sender else "")
        action = Vacation(
            run.rule(line),
            head[0],
            period_s,
            head[1][:MAX_SUBJECT_CHARS],
            check_sender(head[2]) if head[2] else "",
            tuple(addresses.values(run)) if addresses else (),
            handle.value(run) if handle else _handle(*head, is_mime=is_mime),
            is_mime,
            place(run, fcc.value(run)) if fcc else None,
        )
        run.tell(line, "vacation")
        run.act(action, keeps=True)

    return vacation


def _handle(*texts: str, is_mime: bool) -> str:
    """RFC 5230 §4.2: other words are another vacation."""
    return fingerprint(b"mime" if is_mime else b"text", *texts).hex()


EXTENSIONS = (
    Extension(
        "vacation",
        commands=(
            Command(
                "vacation",
                _vacation,
                (Slot("reason", STRING),),
                (
                    Row("days", NUMBER, group="period"),
                    Row("subject", STRING),
                    Row("from", STRING),
                    Row("addresses", STRINGS),
                    Row("mime"),
                    Row("handle", STRING),
                ),
            ),
        ),
    ),
    Extension(
        "vacation-seconds",
        tags={"vacation": (Row("seconds", NUMBER, group="period"),)},
        implies=("vacation",),
    ),
)
