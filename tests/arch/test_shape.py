"""Ratchets on size: short functions, small files. Exceptions are named and only ever removed."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

from .test_layers import ROOT, sources

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 80
MAX_P95_FUNCTION_LINES = 40
# Only ever removed from.
LONG_FILES: frozenset[str] = frozenset()
LONG_FUNCTIONS: frozenset[str] = frozenset()
BANNED_NAMES = {"utils", "helpers", "common", "base", "manager", "misc"}


def functions(path: Path) -> list[tuple[str, int]]:
    """(qualified name, lines without docstring) of every function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            found.append((f"{path.relative_to(ROOT)}:{node.name}", length))
    return found


def test_files_are_not_too_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources()}
    long = {n: c for n, c in lengths.items() if c > MAX_FILE_LINES and n not in LONG_FILES}
    assert not long, long


def test_functions_are_not_too_long() -> None:
    every = [item for path in sources() for item in functions(path)]
    long = {n: c for n, c in every if c > MAX_FUNCTION_LINES and n not in LONG_FUNCTIONS}
    assert not long, long
    lengths = [count for _, count in every]
    if len(lengths) >= 20:
        p95 = statistics.quantiles(lengths, n=20)[-1]
        assert p95 <= MAX_P95_FUNCTION_LINES, (
            f"95 % of functions should be within {MAX_P95_FUNCTION_LINES}: {p95}"
        )


def test_modules_are_named_for_a_thing() -> None:
    assert not [str(p.relative_to(ROOT)) for p in sources() if p.stem in BANNED_NAMES]
