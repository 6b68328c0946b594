"""``sora-node``: the node and its own commands. ``sora-admin`` (``node.admin``) works on what it holds."""

from __future__ import annotations

import click

from .commands.certs import certs
from .commands.cluster import cluster
from .commands.config import config_group
from .commands.drain import drain
from .commands.reload import reload_command
from .commands.serve import quickstart_command, run_command
from .commands.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sora-node", prog_name="sora-node")
def cli() -> None:
    """Sora, a clustered mail server.

    \b
    First steps:  sora-node quickstart
    In earnest:   sora-node config check --config /etc/sora/config.toml
                  sora-node run --config /etc/sora/config.toml
                  sora-node reload --config /etc/sora/config.toml
    """


cli.add_command(config_group)
cli.add_command(run_command)
cli.add_command(quickstart_command)
cli.add_command(reload_command)
cli.add_command(status)
cli.add_command(certs)
cli.add_command(cluster)
cli.add_command(drain)
