"""What a rule about the whole configuration found, before it is given a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .model import Config
from .problem import Code, Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """``path`` is canonical (``servers[0].addr``), whatever dialect the file is in."""

    severity: Severity
    path: str
    message: str
    suggestion: str = ""
    code: Code = "value"


@dataclass(frozen=True, slots=True)
class Facts:
    """``given`` tells whether the file has the option or table of a canonical path."""

    config: Config
    given: Callable[[str], bool]


Rule = Callable[[Facts], Iterator[Finding]]


def missing(path: str, message: str = "required, but missing", suggestion: str = "") -> Finding:
    return Finding("error", path, message, suggestion, "missing")


def inadvisable(path: str, message: str, suggestion: str = "") -> Finding:
    return Finding("warning", path, message, suggestion, "inadvisable")


def conflict(path: str, message: str, suggestion: str = "") -> Finding:
    return Finding("error", path, message, suggestion, "conflict")
