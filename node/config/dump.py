"""The whole configuration in effect as TOML, defaults included; it loads to the same configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .model import Config
from .option import Option, Section, rows
from .secret import MASK, Secret
from .tomltext import line, toml_value


def dump(config: Config, *, show_secrets: bool) -> str:
    return "\n".join(_table(config, "", "", show_secrets)).strip() + "\n"


def _table(section: Any, path: str, server_type: str, show_secrets: bool) -> Iterator[str]:
    of: type = type(section)
    applying = [row for row in rows(of) if not row.types or server_type in (*row.types, "")]
    for row in applying:
        if isinstance(row, Option):
            yield _line(row, getattr(section, row.name), show_secrets)
    for row in applying:
        if isinstance(row, Section):
            yield from _section(
                row, getattr(section, row.name), f"{path}.{row.key}".strip("."), server_type, show_secrets
            )


def _section(row: Section, value: Any, path: str, server_type: str, show_secrets: bool) -> Iterator[str]:
    if value is None:
        return
    for each in value if row.repeated else (value,):
        yield ""
        yield f"[[{path}]]" if row.repeated else f"[{path}]"
        yield from _table(
            each, path, server_type or getattr(each, "type", "") * (path == "servers"), show_secrets
        )


def _line(row: Option, value: Any, show_secrets: bool) -> str:
    if row.kind.secret and not show_secrets:
        return f"{row.key} = {toml_value(_masked(value))}"
    return line(row, value)


def _masked(value: Any) -> object:
    return str(value) if isinstance(value, Secret) else [MASK for _ in value]
