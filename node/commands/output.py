"""Answers of commands: aligned columns for people, JSON for programs.

Whoever sends mail, connects or tries to log in chooses words that operators look at: nothing of them may
reach a terminal as an order, or look like a line of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import click

_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
_CONTROLS_JSON_LEAVES = re.compile("[\x7f-\x9f]")
_UNITS = ("B", "KB", "MB", "GB", "TB")


def printable(foreign: str) -> str:
    """What belongs into one line."""
    return "".join(char if char.isprintable() or char == "\t" else _UNPRINTABLE for char in foreign)


def print_text(text: str) -> None:
    """Its lines are ours; what foreign words there may be in them is not trusted."""
    lines = text.replace("\r\n", "\n").split("\n")  # headers of messages have the line ends of the wire
    click.echo("\n".join(map(printable, lines)))


def print_json(data: object) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False)
    click.echo(_CONTROLS_JSON_LEAVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns; numbers to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    is_number = [bool(rows) and isinstance(cell, int) for cell in (rows[0] if rows else headings)]
    lines = [headings, *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in lines
    )


def fields(pairs: Mapping[str, object]) -> str:
    width = max(map(len, pairs)) + 1
    return "\n".join(f"{name + ':':<{width}} {printable(str(value))}" for name, value in pairs.items())


def show_time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def json_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def show_size(size_bytes: int) -> str:
    """``1536`` to ``1.5 KB``."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
