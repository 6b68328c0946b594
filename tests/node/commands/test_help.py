"""The help of every command of both programs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from node.admin import main
from node.cli import cli

PROGRAMS = {"sora-node": cli, "sora-admin": main}
TOML = {("sora-node", "config", "dump"), ("sora-node", "config", "example")}  # their answer is a file to edit


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


EVERY = [path for program, group in PROGRAMS.items() for path in commands(group, (program,))]


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(PROGRAMS[path[0]], [*path[1:], "--help"], prog_name="PROGRAM")
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_command_has_an_example_of_itself(path: tuple[str, ...]) -> None:
    program, *names = path
    options = r"-\S+ \S+ "  # of the program, before the command
    example = rf"(?m)\b{program} (?:{options})*{' '.join(names)}\b"
    assert re.search(example, help_of(path)), "an example, spelled as it is typed"


@pytest.mark.parametrize("path", [each for each in EVERY if each not in TOML], ids=" ".join)
def test_every_command_that_answers_has_json(path: tuple[str, ...]) -> None:
    assert re.search(r"(?m)^ +--json ", help_of(path))


def test_the_walk_finds_all_groups() -> None:
    assert len(EVERY) > 40
    assert {path[:2] for path in EVERY} >= {
        ("sora-node", "certs"),
        ("sora-node", "cluster"),
        ("sora-admin", "blocks"),
    }
