"""Reading a configuration file in this process's environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from node.config import Config, Loaded, Problem, load
from node.config.check import render

EXIT_CONFIG = 2


class Unreadable(Exception):
    """There is no such file, or it is no text; the message names it."""


def read(path: Path) -> Loaded:
    """The file and all that is to be said about it. Raises Unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise Unreadable(f"{path}: {reason}") from error
    return load(text, source=str(path), environment=os.environ, read_file=_read_text)


def read_again(path: Path) -> Loaded:
    """The same for a node that runs: what cannot be read at all is a problem like others."""
    try:
        return read(path)
    except Unreadable as error:
        return Loaded(None, (Problem("error", "", 0, str(error), code="unreadable"),), str(path))


def load_file(path: Path) -> Loaded:
    """The same; ends the program when the file cannot be read at all."""
    try:
        return read(path)
    except Unreadable as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIG)


def load_or_exit(path: Path) -> tuple[Config, Loaded]:
    """A usable configuration; else everything that is wrong is printed and the program ends."""
    loaded = load_file(path)
    if loaded.config is None:
        click.echo(render(loaded), err=True)
        sys.exit(EXIT_CONFIG)
    return loaded.config, loaded


def _read_text(name: str) -> str:
    return Path(name).read_text(encoding="utf-8")
