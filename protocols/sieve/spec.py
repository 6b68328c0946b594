"""What a command or test looks like: rows of the tables that extensions consist of."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .bound import Bound
    from .run import Run

Do: TypeAlias = "Callable[[Run], None]"
Holds: TypeAlias = "Callable[[Run], bool]"


class Kind(enum.Enum):
    """Of an argument. A single string is a list of one (RFC 5228 §2.4.2.1)."""

    STRING = "a string"
    STRINGS = "a string list"
    NUMBER = "a number"


STRING, STRINGS, NUMBER = Kind.STRING, Kind.STRINGS, Kind.NUMBER


@dataclass(frozen=True, slots=True)
class Slot:
    """A positional argument. Optional ones are filled from the left with what is left over."""

    name: str
    kind: Kind
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A tagged argument. At most one of a ``group`` may be given; alone it is its own group."""

    name: str  # without the colon
    kind: Kind | None = None  # of the argument behind it
    group: str = ""
    extension: str = ""  # that must be required for it

    @property
    def key(self) -> str:
        return self.group or self.name


class Tests(enum.Enum):
    NONE = "no test"
    ONE = "one test"
    MANY = "a list of tests"


@dataclass(frozen=True, slots=True)
class Command:
    """``build`` gets the arguments and returns what is done at run time."""

    name: str
    build: Callable[[Bound], Do]
    slots: tuple[Slot, ...] = ()
    tags: tuple[Row, ...] = ()
    has_block: bool = False


@dataclass(frozen=True, slots=True)
class Test:
    name: str
    build: Callable[[Bound], Holds]
    slots: tuple[Slot, ...] = ()
    tags: tuple[Row, ...] = ()
    tests: Tests = Tests.NONE
    leaves_trace: bool = False  # that it was asked is remembered; captures do not count here


@dataclass(frozen=True, slots=True)
class Extension:
    """What one ``require`` adds. ``tags`` go to commands and tests of other extensions, by their names;
    a row counts only when this extension is required."""

    name: str  # empty: needs no require
    commands: tuple[Command, ...] = ()
    tests: tuple[Test, ...] = ()
    tags: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    implies: tuple[str, ...] = ()
