"""The outcome of loading, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter

from .problem import SEVERITIES, Loaded


def render(loaded: Loaded) -> str:
    """One line per problem, in the order of the file, and a summary."""
    source = loaded.source or "configuration"
    lines = [f"{source}: {problem}" for problem in loaded.problems]
    counts = Counter(problem.severity for problem in loaded.problems)
    parts = [_counted(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    verdict = "cannot be used" if loaded.config is None else "can be used"
    return "\n".join([*lines, f"{source}: {verdict}" + (f" ({', '.join(parts)})" if parts else "")])


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def to_json(loaded: Loaded) -> str:
    """``{"source", "ok", "problems": [{"severity", "code", "key", "line", "message", "suggestion"}]}``."""
    problems = [
        {
            "severity": problem.severity,
            "code": problem.code,
            "key": problem.key,
            "line": problem.line,
            "message": problem.message,
            "suggestion": problem.suggestion,
        }
        for problem in loaded.problems
    ]
    document = {"source": loaded.source, "ok": loaded.config is not None, "problems": problems}
    return json.dumps(document, indent=2)
