"""``sora-admin connections``: who is connected to a running node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from node.units import format_duration

from .access import Access, with_access
from .failure import EXIT_CODES
from .live import ask_node
from .output import show_size, table

_PROTOCOLS = ["imap", "pop3", "lmtp", "managesieve"]


@click.group(epilog="\b\nExample:\n  sora-admin connections list --user ann@example.org\n\n" + EXIT_CODES)
def connections() -> None:
    """Sessions of mail clients and mail servers, and ending them.

    These commands ask the running node, so they work on its machine only.
    """


def _with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """The command gets those that were given as one dictionary, ``filters``."""

    def call(access: Access, **arguments: Any) -> None:
        filters = {name: arguments.pop(name) for name in ("user", "address", "protocol", "server", "session")}
        command(access, filters={name: value for name, value in filters.items() if value}, **arguments)

    wrapped = functools.update_wrapper(call, command)
    for option in (
        click.option("--session", help="Of this session id, as it stands in the log."),
        click.option("--server", help="Of the server with this name."),
        click.option("--protocol", type=click.Choice(_PROTOCOLS), help="Of this protocol."),
        click.option("--address", metavar="ADDRESS|NETWORK", help="From there."),
        click.option("--user", metavar="ADDRESS", help="Of this user, by any of the addresses used."),
    ):
        wrapped = option(wrapped)
    return wrapped


@connections.command(
    "list",
    epilog="\b\nExamples:\n  sora-admin connections list --protocol imap\n"
    "  sora-admin connections list --address 192.0.2.0/24 --json\n"
    "  sora-admin connections list --user ann@example.org --all-nodes",
)
@click.option("--all-nodes", is_flag=True, help="Also the first sessions of each other node, and how many.")
@with_access
@_with_filters
def list_command(access: Access, filters: dict[str, str], all_nodes: bool) -> None:
    """Sessions that match all options given, the oldest first."""
    arguments: dict[str, object] = {"all_nodes": True} if all_nodes else {}
    found = ask_node(access, "connections.list", **filters, **arguments)
    rows = [_row(each, found["now"]) for each in found["connections"]]
    headings = ("SESSION", "SERVER", "USER", "ADDRESS", "TLS", "STATE", "FOR", "IN", "OUT", "CLIENT")
    text = f"{table(headings, rows)}\n\n{_count(len(rows))}" if rows else "nobody is connected"
    if not all_nodes:
        access.answer(found["connections"], text)
        return
    parts = [text, *(_other_node(name, node, found["now"]) for name, node in found["nodes"].items())]
    access.answer({"connections": found["connections"], "nodes": found["nodes"]}, "\n\n".join(parts))


def _other_node(name: str, node: dict[str, Any] | None, now: float) -> str:
    if node is None:
        return f"node {name}: no answer"
    head = f"node {name}: {_count(node['total'])}"
    shown = node["connections"]
    if not shown:
        return head
    rows = [
        (
            each["session"],
            each["server"],
            each["user"] or "-",
            each["address"] or "local",
            format_duration(max(1, round(now - each["since"]))),
        )
        for each in shown
    ]
    rest = node["total"] - len(shown)
    more = f"\n… and {rest} more; ask there for all of them" if rest else ""
    return f"{head}\n{table(('SESSION', 'SERVER', 'USER', 'ADDRESS', 'FOR'), rows)}{more}"


@connections.command(
    epilog="\b\nExamples:\n  sora-admin connections kick --user ann@example.org\n"
    "  sora-admin connections kick --address 192.0.2.7 --protocol pop3\n"
    "  sora-admin connections kick --all --yes"
)
@click.option("--all", "everybody", is_flag=True, help="Everybody; asks first.")
@click.option("--this-node", is_flag=True, help="Leave the other nodes of the cluster alone.")
@click.option("--yes", "--confirm", is_flag=True, help="Do not ask.")
@with_access
@_with_filters
def kick(access: Access, filters: dict[str, str], everybody: bool, this_node: bool, yes: bool) -> None:
    """End the sessions that match all options given, on all nodes of the cluster.

    Each is told so in the words of its protocol. A command that runs may end, for about a second; no mail is
    lost. Clients usually come back at once: to keep an address out, use 'blocks add' first.
    """
    if everybody == bool(filters):
        raise click.UsageError("say which sessions, by options, or --all of them")
    if everybody and not yes:
        where = "this node" if this_node else "this node, and of all others of its cluster"
        click.confirm(f"End all sessions of {where}?", abort=True, err=True)
    arguments: dict[str, object] = {"all": True} if everybody else dict(filters)
    found = ask_node(access, "connections.kick", this_node=this_node, **arguments)
    kicked, nodes = found["kicked"], found["nodes"]
    lines = [f"ended {_count(len(kicked))}"]
    lines += [f"node {name}: {_ended(count)}" for name, count in nodes.items()]
    access.answer({"kicked": kicked, "nodes": nodes} if nodes else kicked, "\n".join(lines))


def _ended(count: int | None) -> str:
    return "told, no answer" if count is None else f"ended {_count(count)}"


def _count(number: int) -> str:
    return "1 connection" if number == 1 else f"{number} connections"


def _row(each: dict[str, Any], now: float) -> tuple[object, ...]:
    return (
        each["session"],
        each["server"],
        each["user"] or "-",
        each["address"] or "local",
        "yes" if each["tls"] else "no",
        each["state"],
        format_duration(max(1, round(now - each["since"]))),
        show_size(each["bytes_in"]),
        show_size(each["bytes_out"]),
        each["client"],
    )
