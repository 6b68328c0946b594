"""extlists (RFC 6134): lists that are kept elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bound import Bound
from ..questions import ListExists
from ..spec import STRINGS, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from ..run import Run


def _valid_ext_list(bound: Bound) -> Holds:
    names = bound.texts("names")

    def holds(run: Run) -> bool:
        return all(run.ask(ListExists(name)) for name in names.values(run))

    return holds


EXTENSIONS = (
    Extension(
        "extlists",
        tests=(Test("valid_ext_list", _valid_ext_list, (Slot("names", STRINGS),)),),
        tags={"redirect": (Row("list"),)},
    ),
)
