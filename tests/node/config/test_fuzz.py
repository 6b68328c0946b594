"""Invariant: load returns whatever the text, and with a configuration exactly when nothing is an error."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config import Loaded, every_row
from node.config.check import render, to_json
from node.config.model import Config

from .loading import load_text
from .test_example import FULL, TEXT
from .test_guide import BLOCKS

SOURCES = [path.read_text() for path in BLOCKS] + [TEXT, FULL]
ROWS = dict(every_row(Config))
KEYS = sorted({path.replace("[]", "") for path in ROWS})
VALUES = [
    "1",
    "-1",
    "0",
    "true",
    '""',
    '"x"',
    '"5m"',
    '":1"',
    "[]",
    "{}",
    "[1]",
    "[{}]",
    "[[]]",
    "1.5",
    "nan",
    "inf",
    "1979-05-27",
    '"${X}"',
    "[{a=1}]",
    "{enabled=true}",
    '["x"]',
    "[true]",
    '"1"',
    "07:32:00",
    '{type="imap"}',
]


def holds(loaded: Loaded) -> bool:
    refused = any(problem.severity == "error" for problem in loaded.problems)
    lines = [problem.line for problem in loaded.problems]
    return (
        (loaded.config is None) == refused
        and all(problem.message for problem in loaded.problems)
        and min(lines, default=0) >= 0
        and bool(render(loaded))
        and bool(to_json(loaded))
    )


@settings(max_examples=150)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    assert holds(load_text(text))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=6))
def test_any_values_of_known_keys(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{key} = {value}" for key, value in dict(pairs).items())
    assert holds(load_text(text))


def opening(path: str, types: frozenset[str]) -> str:
    """Table headers that lead to an option, in a server of a type it applies to."""
    head = path.rpartition(".")[0]
    if head.endswith("[]") and not path.startswith("servers[]"):
        return f"[[{head.removesuffix('[]')}]]\n"
    if not path.startswith("servers[]"):
        return f"[{head}]\n" if head else ""
    server = f'[[servers]]\ntype = "{min(types, default="imap")}"\n'
    inner = head.removeprefix("servers[]").removeprefix(".")
    if not inner:
        return server
    return server + (f"[[servers.{inner[:-2]}]]\n" if inner.endswith("[]") else f"[servers.{inner}]\n")


@pytest.mark.parametrize("value", VALUES)
def test_every_option_with_every_value(value: str) -> None:
    for path, row in ROWS.items():
        loaded = load_text(
            f"{opening(path, row.types)}{path.rpartition('.')[2].removesuffix('[]')} = {value}\n"
        )
        assert holds(loaded), path
        codes = {problem.code for problem in loaded.problems}
        assert path == "servers[].type" or "{" in value or not codes & {"unknown", "syntax"}, path


@settings(max_examples=200)
@given(st.sampled_from(SOURCES), st.randoms(use_true_random=False))
def test_mutated_examples(source: str, chance: random.Random) -> None:
    """Lines dropped, doubled, swapped; characters replaced."""
    lines = source.splitlines()
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        change = chance.choice(["drop", "double", "move", "character", "value"])
        if change == "drop" and len(lines) > 1:
            del lines[at]
        elif change == "double":
            lines.insert(at, lines[at])
        elif change == "move":
            lines.insert(chance.randrange(len(lines)), lines[at])
        elif change == "character" and lines[at]:
            place = chance.randrange(len(lines[at]))
            lines[at] = lines[at][:place] + chance.choice("\"[]{}=.#\\'\n0a") + lines[at][place + 1 :]
        elif change == "value" and "=" in lines[at]:
            lines[at] = lines[at].split("=")[0] + "= " + chance.choice(VALUES)
    assert holds(load_text("\n".join(lines)))
