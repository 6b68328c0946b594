"""Answers of commands: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

import click

_UNITS = ("B", "KB", "MB", "GB", "TB")


def print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
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
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in pairs.items())


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
