"""A TOML text as a tree whose every entry knows how and where it was written."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from .lines import Path, key_lines
from .problem import Problem

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(slots=True)
class Entry:
    """``value`` is a dict of entries (table), a list of entries (tables in an array) or plain TOML data.

    ``key`` is the path as written and stays so when a dialect moves the entry elsewhere.
    """

    value: Any
    key: str
    line: int

    @property
    def is_table(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_tables(self) -> bool:
        return isinstance(self.value, list) and bool(self.value) and isinstance(self.value[0], Entry)


def plain(value: Any) -> Any:
    """The TOML data an entry was made of."""
    if isinstance(value, Entry):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def read(text: str) -> Entry | Problem:
    """The tree, or the one thing that makes it unreadable."""
    try:
        data = tomllib.loads(text.removeprefix("\ufeff"))
        return _entry(data, (), key_lines(text.removeprefix("\ufeff")), 1)
    except tomllib.TOMLDecodeError as error:
        return _syntax_problem(text, str(error))
    except RecursionError:
        return Problem("error", "", 0, "the file is nested too deeply", code="syntax")
    except ValueError as error:  # numbers of more digits than Python converts
        return Problem("error", "", 0, f"not a TOML file: {error}", code="syntax")


def _entry(value: Any, path: Path, lines: dict[Path, int], parent_line: int) -> Entry:
    line = lines.get(path, parent_line)
    if isinstance(value, dict):
        value = {key: _entry(each, (*path, key), lines, line) for key, each in value.items()}
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        value = [_entry(each, (*path, index), lines, line) for index, each in enumerate(value)]
    return Entry(value, written(path), line)


def written(path: Path) -> str:
    """``servers[2].auth_rate_limit``; keys that need quotes get them."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if BARE_KEY.fullmatch(part) else _quoted(part))
    return text


def _quoted(key: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in key) + '"'


# What the offending line looks like, and what to say about it. The line itself is never repeated: it may
# hold a password.
HINTS: tuple[tuple[str, str], ...] = (
    (r"[\u201c\u201d\u2018\u2019]", 'the quotes are typographic; use plain " quotes'),
    (r"^\s*[\w.\"-]+\s*:\s*\S", 'TOML separates key and value by "=", not ":"'),
    (r"=\s*(True|False|TRUE|FALSE|yes|no|on|off)\b", "write true or false in lower case"),
    (r"=\s*[0-9.]+\s*(ms|[smhdw]|[kmgt]i?b)\b", 'values with a unit need quotes: "5m", "10gb"'),
    (r"=\s*\[?:[0-9]", 'addresses need quotes: ":143"'),
    (r"=\s*[0-9]+\.[0-9]+\.", 'addresses need quotes: "10.0.0.1:143"'),
    (r"=\s*(#.*)?$", "the value is missing"),
    (r"^\s*\[[^\]]*$", 'a table header ends with "]"'),
    (r"=\s*[A-Za-z/_]", "text needs quotes"),
    (r"=\s*\"[^\"]*$", "the closing quote is missing"),
    (r"\\", "write a backslash twice, or use 'single quotes'"),
    (r"^\s*[\w.-]+\s*(#.*)?$", "a line is key = value or a [table]"),
)
PLACE = re.compile(r" \((?:at line (\d+), column \d+|at end of document)\)$")


def _syntax_problem(text: str, error: str) -> Problem:
    place = PLACE.search(error)
    lines = text.split("\n")
    line = int(place[1]) if place and place[1] else len(text.rstrip().split("\n"))
    message = PLACE.sub("", error)
    if message.startswith(("Cannot overwrite a value", "Cannot declare")):
        return Problem(
            "error", "", line, "a key or table is given twice", "keep one of the two", code="syntax"
        )
    # An unclosed string or array is noticed a line or two after the mistake.
    suspects = [lines[index] for index in (line - 1, line - 2) if 0 <= index < len(lines)]
    found = [hint for suspect in suspects for pattern, hint in HINTS if re.search(pattern, suspect)]
    return Problem("error", "", line, f"not TOML: {message}", found[0] if found else "", code="syntax")
