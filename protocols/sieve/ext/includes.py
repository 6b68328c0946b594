"""include (RFC 6609): include, return, global."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..bound import Bound
from ..control import Return
from ..errors import RunFault
from ..script import IncludeName
from ..spec import STRING, STRINGS, Command, Do, Extension, Row, Slot

if TYPE_CHECKING:
    from ..run import Run

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _include(bound: Bound) -> Do:
    """Whose script is not there now may be there when mail comes, so that is found out then."""
    name = IncludeName(bound.chosen("location", "personal"), bound.constant(bound.text("script"), "the name"))
    bound.compiler.includes.append(name)
    once, optional, line = bound.has("once"), bound.has("optional"), bound.line

    def include(run: Run) -> None:
        if once and name in run.included:
            return
        script = run.library.get(name)
        if script is None:
            if optional:
                return
            raise RunFault(f'the {name.location} script "{name.name}" cannot be included')
        _enter(run, name)
        frame = run.enter(name.name, script)
        try:
            script.run(run)
        except Return:
            pass
        except RunFault as fault:
            raise RunFault(f'in "{name.name}", {fault}', line) from None
        finally:
            run.leave(frame)

    return include


def _enter(run: Run, name: IncludeName) -> None:
    """Raises RunFault for loops and for too many scripts."""
    limits = run.budget.limits
    run.included.add(name)
    run.includes += 1
    if len(run.frames) > limits.include_depth:
        raise RunFault(f"scripts include each other more than {limits.include_depth} deep")
    if run.includes > limits.includes:
        raise RunFault(f"more than {limits.includes} scripts are included")


def _return(_bound: Bound) -> Do:
    def leave(_run: Run) -> None:
        raise Return

    return leave


def _global(bound: Bound) -> Do:
    if not bound.compiler.has("variables"):
        raise bound.fail('"global" needs require "variables"')
    names = bound.texts("names").constants
    if names is None or not all(map(_NAME.fullmatch, names)):
        raise bound.fail('"global" takes names of variables')
    wanted = {name.lower() for name in names}

    def declare(run: Run) -> None:
        run.frame.globals |= wanted

    return declare


EXTENSIONS = (
    Extension(
        "include",
        commands=(
            Command(
                "include",
                _include,
                (Slot("script", STRING),),
                (
                    Row("personal", group="location"),
                    Row("global", group="location"),
                    Row("once"),
                    Row("optional"),
                ),
            ),
            Command("return", _return),
            Command("global", _global, (Slot("names", STRINGS),)),
        ),
    ),
)
