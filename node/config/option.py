"""The option table: a section is a frozen dataclass, and each of its fields is one row of the table.

A row carries all that is known of an option: kind, default, documentation, other spellings, the feature
that must be active for it to act, and the server types it applies to. Reading, defaults, the notices at
start, ``config dump`` and ``config.toml.example`` are all derived from these rows, so to add an option is
to add one field, and to run ``sora-node config example > config.toml.example``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar

from .kinds import Kind

T = TypeVar("T")
# Field names carry units (style of the code); TOML keys do not, as the value spells its unit.
UNIT_SUFFIXES = ("_s", "_bytes")


@dataclass(frozen=True)
class Option:
    """One value. ``default`` is spelled as in TOML."""

    name: str  # of the field
    key: str  # in TOML
    kind: Kind[Any]
    default: Any
    doc: str
    aliases: tuple[str, ...] = ()  # relative to the section; may be dotted
    feature: str = ""  # "": acts now
    types: frozenset[str] = frozenset()  # server types it applies to; empty: all
    shown: Any = None  # a value for the example where the default says nothing
    required: bool = False
    live: bool = False  # not commented out in the example
    credential: bool = False  # placeholders refuse to start, and KEY_file is read
    by_type: dict[str, Any] = field(default_factory=dict)  # default per server type


@dataclass(frozen=True)
class Section:
    """A table. ``repeated``: an array of tables; ``optional``: None when the file does not have it."""

    name: str
    key: str
    of: type
    doc: str
    aliases: tuple[str, ...] = ()
    feature: str = ""
    types: frozenset[str] = frozenset()
    repeated: bool = False
    optional: bool = False


Row = Option | Section


def option(kind: Kind[T], default: Any, doc: str, *, key: str = "", types: str = "", **more: Any) -> T:
    """A field of a section. ``types`` lists server types separated by spaces."""
    row = {
        "kind": kind,
        "default": default,
        "doc": doc,
        "key": key,
        "types": frozenset(types.split()),
        **more,
    }
    return field(default=kind.parse(default), metadata={"row": (Option, row)})


def section(of: type[T], doc: str, *, key: str = "", types: str = "", **more: Any) -> T:
    row = {"of": of, "doc": doc, "key": key, "types": frozenset(types.split()), **more}
    return field(default=of(), metadata={"row": (Section, row)})


def optional_section(of: type[T], doc: str, *, key: str = "", types: str = "", **more: Any) -> T | None:
    row = {"of": of, "doc": doc, "key": key, "types": frozenset(types.split()), "optional": True, **more}
    return field(default=None, metadata={"row": (Section, row)})


def repeated(of: type[T], doc: str, *, key: str = "", types: str = "", **more: Any) -> tuple[T, ...]:
    row = {"of": of, "doc": doc, "key": key, "types": frozenset(types.split()), "repeated": True, **more}
    return field(default=(), metadata={"row": (Section, row)})


@cache
def rows(of: type) -> tuple[Row, ...]:
    """The rows of a section in the order of the source."""
    found = []
    for each in fields(of):
        make, values = each.metadata["row"]
        found.append(make(name=each.name, **{**values, "key": values["key"] or _toml_key(each.name)}))
    return tuple(found)


def _toml_key(name: str) -> str:
    for suffix in UNIT_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def every_row(of: type, prefix: str = "") -> Iterator[tuple[str, Row]]:
    """(dotted key, row) of a section and all below; repeated sections appear as ``key[]``."""
    for row in rows(of):
        path = f"{prefix}{row.key}"
        yield path, row
        if isinstance(row, Section):
            yield from every_row(row.of, f"{path}[]." if row.repeated else f"{path}.")
