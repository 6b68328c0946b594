"""A script as it is written: commands, tests and arguments, each with its offset in the text."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Tag(NamedTuple):
    name: str  # lower case, without the colon
    offset: int


class Number(NamedTuple):
    value: int
    offset: int


class Text(NamedTuple):
    value: str
    offset: int


class Texts(NamedTuple):
    """A list in brackets."""

    items: list[Text]
    offset: int


Argument: TypeAlias = Tag | Number | Text | Texts


class Test(NamedTuple):
    name: str  # lower case
    offset: int
    arguments: list[Argument]
    tests: list[Test]
    has_list: bool  # its tests stand in parentheses


class Command(NamedTuple):
    name: str  # lower case
    offset: int
    arguments: list[Argument]
    tests: list[Test]
    has_list: bool
    block: list[Command] | None
