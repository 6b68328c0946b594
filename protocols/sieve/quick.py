"""The tests that most rules consist of, without detours: ``:is`` and ``:contains`` of i;ascii-casemap with
constant keys on whole fields. What they compare is put into capitals once for all rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .skipping import KEYS_PER_STEP, Source, capitals
from .spec import Holds

if TYPE_CHECKING:
    from .run import Run


def quick_test(sources: Sequence[Source], keys: Sequence[str], *, is_whole: bool) -> Holds:
    """``keys`` are in capitals; ``is_whole``: :is, else :contains."""
    wanted, several = tuple(keys), len(keys)

    def holds(run: Run) -> bool:
        fields = run.fields
        for source in sources:
            values, steps = fields.uppers.get(source.key) or capitals(fields, source)
            if steps or several >= KEYS_PER_STEP:  # short values are paid with the rule
                run.budget.spend(steps * several + len(values) * several // KEYS_PER_STEP)
            for value in values:
                if is_whole:
                    if value in wanted:
                        return True
                    continue
                for part in wanted:
                    if part in value:
                        return True
        return False

    return holds
