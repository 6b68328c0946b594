"""``sora-node run`` and ``sora-node quickstart``."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.quickstart import Made, Wish, prepare

from .load import EXIT_CONFIG, load_or_exit, read_again
from .portchoice import PortChoice

if TYPE_CHECKING:
    from node.composition import Composition
    from node.config import Config, Loaded
    from node.run import OnReady

log = logging.getLogger("sora.node")

EXIT_FAILED = 1


@click.command("run")
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The config.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
def run_command(path: Path, as_json: bool) -> None:
    """Run the node in the foreground until Ctrl-C or SIGTERM.

    \b
    Example:
      sora-node run --config /etc/sora/config.toml

    Exit status: 0 after an orderly stop, 1 when it could not start, 2 for a bad configuration.
    """
    config, loaded = load_or_exit(path)

    async def ready(node: Composition) -> None:
        if as_json:
            click.echo(json.dumps({"ready": True, "servers": node.addresses()}))

    sys.exit(_run(config, loaded, ready, path.absolute()))


@click.command("quickstart")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sora-data"),
    show_default=True,
    help="Everything is kept here; made when missing.",
)
@click.option(
    "--s3",
    type=click.Choice(["file", "rclone"]),
    default="file",
    show_default=True,
    help="Bodies in a directory, or in a real S3 server (rclone).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--ports",
    type=PortChoice(),
    help="143, 993 …; 1143, 1993 …; any free ones (of a range). Default: standard for root, else high.",
)
@click.option("--account", default="test@sora.localhost", show_default=True, help="The first account.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
def quickstart_command(
    data_dir: Path, s3: str, host: str, ports: str | None, account: str, as_json: bool
) -> None:
    """Start a node from nothing: PostgreSQL, object store, certificate and one account included.

    \b
    Examples:
      sora-node quickstart
      sora-node quickstart --data-dir /srv/sora --s3 rclone --ports auto

    A data directory that exists is started as it is; its config.toml may be edited. Ctrl-C stops everything.
    """
    data = data_dir.absolute()
    if any(ch in str(data) for ch in '"\\'):
        raise click.BadParameter(
            "the path must not contain quotation marks or backslashes", param_hint="--data-dir"
        )
    from storage.postgres.server import LocalServer, ServerError

    try:
        (data / "postgres").mkdir(mode=0o700, parents=True, exist_ok=True)
        socket_directory = LocalServer(data / "postgres", password="").socket_directory
        made = prepare(Wish(data, s3, host, ports or "", account), socket_directory)
    except (OSError, ServerError) as error:
        click.echo(f"quickstart: {error}", err=True)
        sys.exit(EXIT_FAILED)
    config, loaded = load_or_exit(made.config)
    password = made.password_file.read_text()  # as long as we are root

    async def ready(node: Composition) -> None:
        await node.ensure_account(made.address, password)
        if as_json:
            click.echo(json.dumps(_facts(node, config, made, password)))
        else:
            click.echo(_welcome(node, config, made, password))

    sys.exit(_run(config, loaded, ready, made.config))


def _run(config: Config, loaded: Loaded, ready: OnReady, path: Path) -> int:
    from node.footing import take_footing
    from node.privileges import PrivilegesUnusable
    from node.run import run
    from node.startfaults import START_FAULTS, StartFailed

    try:
        footing = take_footing(config, path, os.environ, loaded.problems)
    except PrivilegesUnusable as error:
        log.critical("the node cannot start: %s", error)
        return EXIT_CONFIG
    except START_FAULTS as error:
        log.critical("the node cannot start: %s", error)
        return EXIT_FAILED
    try:
        return run(config, ready, lambda: read_again(path), footing)
    except StartFailed as error:
        log.critical("the node cannot start: %s", error)
        return EXIT_FAILED


def _facts(node: Composition, config: Config, made: Made, password: str) -> dict[str, object]:
    return {
        "ready": True,
        "config": str(made.config),
        "certificate": config.tls.cert_file,
        "key": config.tls.key_file,
        "account": {"address": made.address, "password": password},
        "servers": node.addresses(),
    }


def admin_program(started_as: Path) -> str:
    """How to call ``sora-admin``: the script beside the one that was started; without one, the module."""
    script = started_as.parent / "sora-admin"
    return str(script) if script.exists() else f"{sys.executable} -m node.admin"


def _welcome(node: Composition, config: Config, made: Made, password: str) -> str:
    port = node.addresses()["imaps"].rpartition(":")[2]
    lines = [
        "",
        "Sora is ready. Ctrl-C stops it.",
        "",
        f"  account      {made.address}",
        f"  password     {password}",
        *(f"  {name:12} {address}" for name, address in node.addresses().items()),
        f"  certificate  {config.tls.cert_file} (self-signed: tell your client to trust it)",
        f"  settings     {made.config}",
        "",
        "Try:",
        f"  curl --cacert {config.tls.cert_file} -u '{made.address}' "
        f"imaps://localhost:{port}/INBOX -X 'STATUS INBOX (MESSAGES)'",
        f"  {admin_program(Path(sys.argv[0]))} --config {made.config} accounts list",
        "",
    ]
    return "\n".join(lines)
