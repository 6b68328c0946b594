"""All extensions. One more is a file in ``ext`` and a row here."""

from __future__ import annotations

from dataclasses import dataclass

from .comparators import BUILT_IN, COMPARATORS
from .ext import (
    actions,
    bodies,
    conditions,
    dates,
    duplicates,
    edits,
    environments,
    flags,
    includes,
    lists,
    mailboxes,
    metadata,
    mime,
    notifications,
    probes,
    rejections,
    scores,
    vacations,
    variables,
)
from .spec import Command, Extension, Row, Test

EXTENSIONS: tuple[Extension, ...] = (
    *actions.EXTENSIONS,
    *bodies.EXTENSIONS,
    *conditions.EXTENSIONS,
    *dates.EXTENSIONS,
    *duplicates.EXTENSIONS,
    *edits.EXTENSIONS,
    *environments.EXTENSIONS,
    *flags.EXTENSIONS,
    *includes.EXTENSIONS,
    *lists.EXTENSIONS,
    *mailboxes.EXTENSIONS,
    *metadata.EXTENSIONS,
    *mime.EXTENSIONS,
    *notifications.EXTENSIONS,
    *probes.EXTENSIONS,
    *rejections.EXTENSIONS,
    *scores.EXTENSIONS,
    *vacations.EXTENSIONS,
    *variables.EXTENSIONS,
    Extension("encoded-character"),
    Extension("relational"),
    Extension("regex"),
    *(Extension(f"comparator-{name}") for name in COMPARATORS),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A row and the extensions of which one must be required for it; empty: none."""

    row: Command | Test
    extensions: tuple[str, ...]


def _index(every: list[tuple[Command | Test, str]]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for row, extension in every:
        known = found.get(row.name)
        names = (*known.extensions, extension) if known else (extension,)
        found[row.name] = Found(row, tuple(filter(None, names)))
    return found


def _tags() -> dict[str, tuple[Row, ...]]:
    found: dict[str, tuple[Row, ...]] = {}
    for extension in EXTENSIONS:
        for name, rows in extension.tags.items():
            owned = (Row(row.name, row.kind, row.group, extension.name) for row in rows)
            found[name] = (*found.get(name, ()), *owned)
    return found


COMMANDS = _index([(row, each.name) for each in EXTENSIONS for row in each.commands])
TESTS = _index([(row, each.name) for each in EXTENSIONS for row in each.tests])
TAGS = _tags()
IMPLIED = {each.name: each.implies for each in EXTENSIONS if each.implies}
# What scripts may require whatever the site allows (RFC 5228 §2.7.3).
ALWAYS = frozenset(f"comparator-{name}" for name in BUILT_IN)
# RFC 6785 §3.11: they answer a delivery.
ONLY_AT_DELIVERY = frozenset({"reject", "ereject", "vacation", "vacation-seconds"})
# All names, as a capability list shows them.
NAMES = frozenset(each.name for each in EXTENSIONS if each.name)
