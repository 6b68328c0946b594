"""environment (RFC 5183), and what imapsieve adds to it (RFC 6785)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bound import Bound
from ..matching import MATCH_TAGS, Matching
from ..spec import STRING, STRINGS, Extension, Holds, Slot, Test

if TYPE_CHECKING:
    from ..run import Run


# RFC 6785 §4.2, §4.5: empty while mail is delivered.
_ELSEWHERE = {"imap.user": "", "imap.email": "", "imap.changedflags": ""}


def _environment(bound: Bound) -> Holds:
    name = bound.text("name")
    matching = Matching(bound, bound.texts("keys"))

    def holds(run: Run) -> bool:
        item = name.value(run).lower()
        value = run.environment.get(item, _ELSEWHERE.get(item))
        return value is not None and matching.holds(run, [value])

    return holds


EXTENSIONS = (
    Extension(
        "environment",
        tests=(Test("environment", _environment, (Slot("name", STRING), Slot("keys", STRINGS)), MATCH_TAGS),),
    ),
    Extension("imapsieve"),
)
