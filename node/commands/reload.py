"""``sora-node reload``: have the running node read its configuration again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from node.config.check import render
from node.control import ControlRefused, ControlUnusable, ask, control_path

from .failure import UNAVAILABLE
from .load import EXIT_CONFIG, read_again

TIMEOUT_S = 60.0


@click.command("reload")
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The config.toml.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Control socket of the node; needed only when the file itself cannot say where it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of text.")
def reload_command(path: Path, socket: Path | None, *, as_json: bool) -> None:
    """Have the running node read its configuration again, as SIGHUP does. Sessions go on.

    The node reads the file it was started with. Says what is in force now and what needs a restart.

    \b
    Example:
      sora-node reload --config /etc/sora/config.toml

    Exit status: 0 when the file was taken, 2 when it or a file that it names cannot be used, 5 when no node
    runs here. Unless it is 0 nothing has changed.
    """
    outcome = _ask(socket or _socket_of(path, as_json=as_json))
    click.echo(json.dumps(outcome, indent=2) if as_json else _render(outcome))
    if not outcome["ok"]:
        sys.exit(EXIT_CONFIG)


def _socket_of(path: Path, *, as_json: bool) -> Path:
    loaded = read_again(path)
    if loaded.config is not None:
        return control_path(loaded.config)
    if as_json:
        problems = [{"severity": each.severity, "text": str(each)} for each in loaded.problems]
        document = {"ok": False, "applied": [], "needs_restart": [], "problems": problems}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(render(loaded), err=True)
    sys.exit(EXIT_CONFIG)


def _ask(socket: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = ask(socket, "reload", timeout_s=TIMEOUT_S)
    except (ControlRefused, ControlUnusable) as error:
        click.echo(str(error), err=True)
        sys.exit(UNAVAILABLE)
    return found


def _render(outcome: dict[str, Any]) -> str:
    lines = [each["text"] for each in outcome["problems"]]
    if not outcome["ok"]:
        return "\n".join([*lines, "Nothing was changed."])
    lines.append(f"Applied: {', '.join(outcome['applied']) or 'nothing new'}")
    if outcome["needs_restart"]:
        lines.append(f"Needs a restart: {', '.join(outcome['needs_restart'])}")
    return "\n".join(lines)
