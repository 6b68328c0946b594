"""``sora-admin status``, also ``sora-node status``: the running node in a few lines."""

from __future__ import annotations

from typing import Any

import click

from node.units import format_duration

from .access import Access, with_access
from .cluster import render_cluster
from .failure import EXIT_CODES
from .live import ask_node
from .output import fields, show_size, table


@click.command(
    "status", epilog="\b\nExamples:\n  sora-node status\n  sora-admin status --json\n\n" + EXIT_CODES
)
@with_access
def status(access: Access) -> None:
    """Version, uptime, servers and their connections, what waits for upload, and the cluster, as the running
    node sees it."""
    found = ask_node(access, "status")
    access.answer(found, _render(found))


def _render(found: dict[str, Any]) -> str:
    staging = found["staging"]
    waiting = staging.get("error") or f"{staging['staged']} bodies, {show_size(staging['encoded_bytes'])}"
    limits = found["rate_limits"]
    head = fields(
        {
            "version": found["version"],
            "process": found["pid"],
            "workers": ", ".join(_worker(each) for each in found["workers"]) or "none, all in one process",
            "up": format_duration(round(found["uptime_s"])),
            "waits for upload": waiting,
            "blocks": limits["blocks"],
            "delayed logins": limits["waiting"],
        }
    )
    rows = [
        (each["name"], each["address"], each["connections"], each["refused"]) for each in found["listeners"]
    ]
    parts = [head, table(("SERVER", "ADDRESS", "CONNECTIONS", "REFUSED"), rows)]
    if found.get("cluster"):
        parts.append(render_cluster(found["cluster"]))
    return "\n\n".join(parts)


def _worker(found: dict[str, Any]) -> str:
    state = f"{found['sessions']} sessions" if found["ready"] else "starting"
    return f"{found['pid']} ({state})"
