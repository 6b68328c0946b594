"""spamtest, spamtestplus and virustest (RFC 5235)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bound import Bound
from ..matching import MATCH_TAGS, Matching
from ..spamheaders import spam_percent, virus_value
from ..spec import STRINGS, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from ..run import Run


def _spamtest(bound: Bound) -> Holds:
    matching, percent = Matching(bound, bound.texts("value")), bound.has("percent")

    def holds(run: Run) -> bool:
        score = run.mail.spam_percent
        if score is None:
            score = spam_percent(run.mail.header)
        if matching.counts:
            return matching.holds(run, [] if score is None else ["tested"])
        return matching.holds(run, [_spam_value(score, percent=percent)])

    return holds


def _spam_value(score: float | None, *, percent: bool) -> str:
    """0 to 100 (RFC 5235 §2.1.2), else 0 for not tested and 1 to 10 (§2.1)."""
    if score is None:
        return "0"
    score = min(max(score, 0.0), 100.0)
    return str(round(score)) if percent else str(1 + int(score * 9 / 100))


def _virustest(bound: Bound) -> Holds:
    matching = Matching(bound, bound.texts("value"))

    def holds(run: Run) -> bool:
        value = run.mail.virus_value or virus_value(run.mail.header)
        if matching.counts:
            return matching.holds(run, [] if value is None else ["tested"])
        return matching.holds(run, [str(value or 0)])

    return holds


_VALUE = (Slot("value", STRINGS),)
_SPAMTEST = Test("spamtest", _spamtest, _VALUE, MATCH_TAGS)

EXTENSIONS = (
    Extension("spamtest", tests=(_SPAMTEST,)),
    Extension("spamtestplus", tests=(_SPAMTEST,), tags={"spamtest": (Row("percent"),)}),
    Extension("virustest", tests=(Test("virustest", _virustest, _VALUE, MATCH_TAGS),)),
)
