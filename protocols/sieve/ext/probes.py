"""ihave (RFC 5463)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bound import Bound
from ..errors import RunFault
from ..spec import STRING, STRINGS, Command, Do, Extension, Holds, Slot, Test

if TYPE_CHECKING:
    from ..run import Run


def _ihave(bound: Bound) -> Holds:
    """What is there is at hand from here on; what is not makes no error of the text (RFC 5463 §4)."""
    names = bound.texts("names").constants
    if names is None:
        raise bound.fail('"ihave" takes names without variables')
    compiler = bound.compiler
    compiler.defer_unknown()
    has_all = all(compiler.may_require(name) for name in names)
    if has_all:
        for name in names:
            compiler.enable(name)
    return lambda _run: has_all


def _error(bound: Bound) -> Do:
    message = bound.text("message")

    def fail(run: Run) -> None:
        raise RunFault(message.value(run)[:1000])

    return fail


EXTENSIONS = (
    Extension(
        "ihave",
        commands=(Command("error", _error, (Slot("message", STRING),)),),
        tests=(Test("ihave", _ihave, (Slot("names", STRINGS),)),),
    ),
)
