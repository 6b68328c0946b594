"""Reading a configuration file in this process's environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from node.config import Config, Loaded, Problem, load
from node.config.check import render
from node.privileges import cure, who_we_are

EXIT_CONFIG = 2


class Unreadable(Exception):
    """There is no such file, or it is no text; the message names it."""


def read(path: Path) -> Loaded:
    """The file and all that is to be said about it. Raises Unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else _why(error, path)
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
    """Raises OSError, whose ``strerror`` has the cure."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except PermissionError as error:
        raise PermissionError(error.errno, _why(error, Path(name)), name) from error


def _why(error: OSError, path: Path) -> str:
    if isinstance(error, PermissionError):
        return f"{error.strerror} for {who_we_are()}; {cure(path)}"
    return error.strerror or str(error)
