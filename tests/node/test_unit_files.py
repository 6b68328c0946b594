"""The files for systemd fit the programs, the options and the example configuration."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

import click
import pytest

from node import supervisor
from node.cli import cli
from node.config import Config
from node.config.option import Option, every_row
from node.units import parse_address
from tests.support.nodeprocess import ROOT

SERVICE = (ROOT / "deploy/systemd/sora-node.service").read_text()
SOCKET = (ROOT / "deploy/systemd/sora-node.socket").read_text()
EXAMPLE = (ROOT / "config.toml.example").read_text()
# what each of these makes, and lets the service write to
DIRECTORIES = {
    "StateDirectory": "/var/lib",
    "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
    "RuntimeDirectory": "/run",
}
ABSOLUTE = re.compile(r"/(?:var|run)/\S+")


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", unit)


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(min|s|)", text).groups()  # type: ignore[union-attr]
    return float(number) * (60 if unit == "min" else 1)


@pytest.mark.parametrize("line", values(SERVICE, "ExecStart(?:Pre)?"))
def test_commands_and_their_options_exist(line: str) -> None:
    program, *words = shlex.split(line)
    assert program.endswith("/sora-node")
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_parser(click.Context(command)).parse_args(words)


def written() -> list[str]:
    """Paths in the table of options, defaults and suggestions, that the node writes to."""
    found = []
    for _, row in every_row(Config):
        if isinstance(row, Option):
            found += [str(each) for each in (row.default, row.shown) if ABSOLUTE.fullmatch(str(each))]
    return found


def test_node_ends_its_programs_by_itself() -> None:
    """A database that gets the SIGTERM of the node takes no more connections, while mail still comes in."""
    assert values(SERVICE, "KillMode") == ["mixed"]


def test_what_the_node_writes_to_may_be_written() -> None:
    assert "/var/lib/sora/staging" in written()
    assert values(SERVICE, "ProtectSystem") == ["strict"]
    allowed = [
        PurePosixPath(parent, name)
        for key, parent in DIRECTORIES.items()
        for name in " ".join(values(SERVICE, key)).split()
    ]
    allowed += [PurePosixPath(each.lstrip("-")) for each in values(SERVICE, "ReadWritePaths")]
    for text in [*written(), "/var/log/sora/sora.log"]:
        assert any(PurePosixPath(text).is_relative_to(each) for each in allowed), text


def test_it_is_given_the_time_to_stop_in_order() -> None:
    (stop,) = values(SERVICE, "TimeoutStopSec")
    assert seconds(stop) > supervisor.STOP_WITHIN_S + 10


def test_sockets_are_those_of_the_example() -> None:
    """One that is on another address than its server is in the way of that server."""
    listening = set(values(SOCKET, "ListenStream"))
    servers = re.findall(r'(?m)^addr = "([^"]*)"$', EXAMPLE)
    assert len(servers) >= 3
    ports = {parse_address(each).port for each in servers} | {993, 995}  # TLS from the start, where wanted
    assert listening == {f"{host}:{port}" for port in ports for host in ("0.0.0.0", "[::]")}
