"""``sora-node config``: look at a configuration without starting anything."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node.config import example
from node.config.check import render, to_json
from node.config.dump import dump

from .load import EXIT_CONFIG, load_file

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("config.toml"),
    show_default=True,
    help="The configuration file.",
)


@click.group("config")
def config_group() -> None:
    """Check and show configuration files.

    \b
    Exit codes:
      0  the configuration can be used
      2  it cannot; every reason is printed
    """


@config_group.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of text.")
def check(path: Path, *, as_json: bool) -> None:
    """Report everything that is wrong with a configuration, with key and line.

    \b
    Examples:
      sora-node config check --config /etc/sora/config.toml
      sora-node config check --config config.toml --json | jq '.problems[]'
    """
    loaded = load_file(path)
    click.echo(to_json(loaded) if as_json else render(loaded))
    sys.exit(EXIT_CONFIG if loaded.config is None else 0)


@config_group.command("dump")
@config_option
@click.option(
    "--mask-secrets/--show-secrets", default=True, show_default=True, help="Whether secrets are shown as ***."
)
def dump_command(path: Path, *, mask_secrets: bool) -> None:
    """Print the whole configuration in effect, defaults included, as TOML.

    \b
    Examples:
      sora-node config dump --config config.toml
      sora-node config dump --config old.toml --show-secrets > new.toml
    """
    loaded = load_file(path)
    if loaded.config is None:
        click.echo(render(loaded), err=True)
        sys.exit(EXIT_CONFIG)
    click.echo(dump(loaded.config, show_secrets=not mask_secrets), nl=False)


@config_group.command("example")
def example_command() -> None:
    """Print a commented configuration with every option and its default.

    \b
    Example:
      sora-node config example > config.toml
    """
    click.echo(example.render(), nl=False)
