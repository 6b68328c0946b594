"""The line of every key, for every way TOML can spell one."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config.lines import Path, key_lines
from node.config.tomltext import toml_value

CASES = [
    ("a = 1\nb = 2\n", {("a",): 1, ("b",): 2}),
    ("\n# c\n[t]\n\nx = 1", {("t",): 3, ("t", "x"): 5}),
    ("[a.b]\nc.d = 1", {("a", "b"): 1, ("a", "b", "c", "d"): 2}),
    ("[[s]]\nx=1\n[[s]]\nx=2", {("s", 0): 1, ("s", 0, "x"): 2, ("s", 1): 3, ("s", 1, "x"): 4}),
    ("[[s]]\nt=1\n[s.imap.limit]\nm=1", {("s", 0, "imap", "limit"): 3, ("s", 0, "imap", "limit", "m"): 4}),
    (
        "[[a]]\n[[a.b]]\n[[a.b]]\nx=1\n[[a]]\n[[a.b]]\ny=1",
        {("a", 0, "b", 1, "x"): 4, ("a", 1, "b", 0, "y"): 7},
    ),
    ("p = {x = 1, y = {z = 2}}\nq = 1", {("p", "x"): 1, ("p", "y", "z"): 1, ("q",): 2}),
    ("l = [\n 1,\n # no ] here\n 2,\n]\nq = 1", {("l", 0): 2, ("l", 1): 4, ("q",): 6}),
    ("l = [\n {x = 1},\n {x = 2}\n]\nq = 1", {("l", 1, "x"): 3, ("q",): 5}),
    ('m = """\na = 1\n[t]\n""" # "\nq = 1', {("q",): 5}),
    ("m = '''\na \\'''\nq = 1", {("q",): 3}),
    ('m = """a\\"""" \nq = 1', {("q",): 2}),
    ('m = """""a"""""\nq = 1', {("q",): 2}),
    ('s = "a # [b]\\" = 1"\nq = 1', {("s",): 1, ("q",): 2}),
    ('"a b".\'c=d\' = 1\n"\\u00e9" = 1', {("a b", "c=d"): 1, ("é",): 2}),
    ("d = 1979-05-27 07:32:00 # [x]\nq = 1", {("q",): 2}),
    ("a = 1\r\nb = 2\r\n", {("b",): 2}),
    ("[ a . b ]\nc=1", {("a", "b", "c"): 2}),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_lines(text: str, expected: dict[Path, int]) -> None:
    tomllib.loads(text)
    lines = key_lines(text)
    assert {path: lines.get(path) for path in expected} == expected


def paths_in(value: Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, each in value.items():
            found |= paths_in(each, (*path, key))
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        for index, each in enumerate(value):
            found |= paths_in(each, (*path, index))
    return found


scalars = (
    st.booleans()
    | st.integers(-100, 100)
    | st.text(max_size=12)
    | st.lists(st.text(max_size=5), max_size=3)
    | st.floats(0, 1)
)
keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
tables = st.recursive(
    st.dictionaries(keys, scalars, max_size=3),
    lambda inner: st.dictionaries(keys, inner | st.lists(inner, min_size=1, max_size=3), max_size=3),
    max_leaves=8,
)


def write(table: dict[str, Any], path: str, lines: dict[Path, int], at: Path, out: list[str]) -> None:
    """The document for a table, noting the line of each scalar."""
    for key, value in table.items():
        if not isinstance(value, dict) and not (
            isinstance(value, list) and value and isinstance(value[0], dict)
        ):
            out.append(f"{toml_value(key)} = {toml_value(value)} # = [x]")
            lines[(*at, key)] = len(out)
    for key, value in table.items():
        name = f"{path}.{toml_value(key)}".strip(".") if path else toml_value(key)
        if isinstance(value, dict):
            out += ["", f"[{name}]"]
            write(value, name, lines, (*at, key), out)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, each in enumerate(value):
                out.append(f"[[ {name} ]]")
                write(each, name, lines, (*at, key, index), out)


@settings(max_examples=150)
@given(tables)
def test_any_document_has_every_line(table: dict[str, Any]) -> None:
    expected: dict[Path, int] = {}
    out: list[str] = []
    write(table, "", expected, (), out)
    text = "\n".join(out)
    parsed = tomllib.loads(text)
    lines = key_lines(text)
    assert {path: lines.get(path) for path in expected} == expected
    assert paths_in(parsed) <= lines.keys()
