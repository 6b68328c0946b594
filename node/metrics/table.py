"""The catalogue as a table for docs/monitoring.md: ``python -m node.metrics.table``."""

from __future__ import annotations

from collections.abc import Iterable

from .catalogue import FAMILIES
from .family import Family


def markdown(families: Iterable[Family] = FAMILIES) -> str:
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(family.all_labels)
        lines.append(f"| `{family.name}` | {family.kind.value} | {labels} | {family.doc} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
