"""A compiled script: immutable but for what its patterns learn, fit to be cached by the hash of its text."""

from __future__ import annotations

from dataclasses import dataclass

from .skipping import Idles
from .spec import Do


@dataclass(frozen=True, slots=True)
class IncludeName:
    """A script that this one may include; ``location`` is personal or global (RFC 6609 §3.2)."""

    location: str
    name: str


@dataclass(frozen=True, slots=True)
class Script:
    run: Do
    extensions: frozenset[str]  # all that are required
    includes: tuple[IncludeName, ...] = ()
    uses_captures: bool = False  # refers to ${0}, ${1} ...
    warnings: tuple[str, ...] = ()
    idles: Idles | None = None  # ``skipping.Block``
