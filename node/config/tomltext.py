"""Writes TOML values."""

from __future__ import annotations

from .kinds import Kind
from .option import Option

SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def toml_value(value: object) -> str:
    """A value of the kinds the option table renders to."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(toml_value(each) for each in value)}]"
    assert isinstance(value, str)
    return f'"{"".join(_escaped(character) for character in value)}"'


def _escaped(character: str) -> str:
    if character in SHORT_ESCAPES:
        return SHORT_ESCAPES[character]
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def line(row: Option, value: object) -> str:
    """``key = value`` for a value as a program has it."""
    kind: Kind[object] = row.kind
    return f"{row.key} = {toml_value(_quoted_references(kind.render(value)))}"


def _quoted_references(rendered: object) -> object:
    """``${`` of a value is no reference to the environment."""
    if isinstance(rendered, list):
        return [_quoted_references(each) for each in rendered]
    return rendered.replace("${", "$${") if isinstance(rendered, str) else rendered
