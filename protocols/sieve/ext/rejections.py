"""reject and ereject (RFC 5429)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..bound import Bound
from ..outcome import Reject
from ..spec import STRING, Command, Do, Extension, Slot

if TYPE_CHECKING:
    from ..run import Run

MAX_REASON_CHARS = 4000


def _reject(*, extended: bool) -> Callable[[Bound], Do]:
    def build(bound: Bound) -> Do:
        line, name, reason = bound.line, bound.name, bound.text("reason")

        def reject(run: Run) -> None:
            text = reason.value(run)[:MAX_REASON_CHARS]
            run.tell(line, f"{name} {text[:100]!r}")
            run.act(Reject(run.rule(line), text, extended))

        return reject

    return build


_SLOTS = (Slot("reason", STRING),)

EXTENSIONS = (
    Extension("reject", commands=(Command("reject", _reject(extended=False), _SLOTS),)),
    Extension("ereject", commands=(Command("ereject", _reject(extended=True), _SLOTS),)),
)
