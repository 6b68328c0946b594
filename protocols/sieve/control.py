"""How commands follow each other: sequences and if chains, and what ends them early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import RunFault
from .spec import Do, Holds

if TYPE_CHECKING:
    from .run import Run


class Stop(Exception):
    """Ends all scripts of the run (RFC 5228 §3.3)."""


class Return(Exception):
    """Ends the script at hand (RFC 6609 §3.3)."""


class Break(Exception):
    """Ends a loop around it (RFC 5703 §3). ``name`` is that of the loop, None: the innermost."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.name = name


def sequence(steps: Sequence[Do]) -> Do:
    every = tuple(steps)
    if len(every) == 1:
        return every[0]

    def run_all(run: Run) -> None:
        run.budget.spend(len(every))
        for step in every:
            step(run)

    return run_all


def chain(branches: Sequence[tuple[Holds | None, Do, int]]) -> Do:
    """``if``, ``elsif`` and ``else``. Each branch: condition or None, block, line."""

    if len(branches) == 1:
        return _lone_if(*branches[0])

    def run_chain(run: Run) -> None:
        for condition, block, line in branches:
            try:
                if condition is None or condition(run):
                    outer, run.because = run.because, line
                    block(run)
                    run.because = outer
                    return
            except RunFault as fault:
                fault.at(line)
                raise
            run.budget.spend(1)

    return run_chain


def _lone_if(condition: Holds | None, block: Do, line: int) -> Do:
    """What most rules are."""
    assert condition is not None
    holds = condition

    def run_if(run: Run) -> None:
        try:
            if holds(run):
                outer, run.because = run.because, line
                block(run)
                run.because = outer
        except RunFault as fault:
            fault.at(line)
            raise

    return run_if
