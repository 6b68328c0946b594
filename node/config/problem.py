"""What is wrong with a configuration, and the outcome of loading one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .model import Config

Severity = Literal["error", "warning", "notice"]
Code = Literal[
    "syntax",  # not TOML
    "unreadable",  # a file or environment variable that is named cannot be read
    "unknown",  # a key or table that means nothing
    "value",  # not what the option takes
    "missing",  # a required value, or one that another makes necessary
    "placeholder",  # a secret still has the value of an example
    "conflict",  # two settings that exclude each other, or a repetition
    "unused",  # legal, without effect
    "inadvisable",  # legal, known to hurt
    "inactive",  # the feature comes later
]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "notice")


@dataclass(frozen=True, slots=True)
class Problem:
    """``key`` is the path as written in the file, ``line`` counts from 1 (0: no line). Messages never
    contain the value of a secret."""

    severity: Severity
    key: str
    line: int
    message: str
    suggestion: str = ""
    code: Code = "value"

    def __str__(self) -> str:
        """``line 12: error: s3.bucket: required, but missing (for example …)``, safe for a terminal."""
        parts = [f"line {self.line}" if self.line else "", self.severity, self.key, self.message]
        text = ": ".join(part for part in parts if part)
        text += f" ({self.suggestion})" if self.suggestion else ""
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


@dataclass(frozen=True, slots=True)
class Loaded:
    """``config`` is None exactly when a problem is an error."""

    config: Config | None
    problems: tuple[Problem, ...]
    source: str = ""
