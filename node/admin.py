"""``sora-admin``: administration straight on the database, also while no node runs; ``blocks``, ``relay`` and
``status`` ask the running node."""

from __future__ import annotations

from pathlib import Path

import click

from .commands.accounts import accounts
from .commands.blocks import blocks
from .commands.cleaner import cleaner
from .commands.connections import connections
from .commands.credentials import credentials
from .commands.failure import EXIT_CODES
from .commands.health import health
from .commands.messages import messages
from .commands.migrations import migrations
from .commands.relay import relay
from .commands.sieve import sieve
from .commands.status import status
from .commands.uploader import uploader
from .commands.verify import verify


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    "  sora-admin --config /etc/sora/config.toml accounts create ann@example.org\n"
    "  sora-admin accounts list --json\n\n" + EXIT_CODES,
)
@click.option(
    "--config", "-c", type=click.Path(path_type=Path), help="Configuration file, for every command below."
)
def main(config: Path | None) -> None:
    """Manage accounts and mail of a Sora installation."""


for group in (
    accounts,
    blocks,
    cleaner,
    connections,
    credentials,
    health,
    messages,
    migrations,
    sieve,
    relay,
    status,
    uploader,
    verify,
):
    main.add_command(group)

if __name__ == "__main__":
    main()
