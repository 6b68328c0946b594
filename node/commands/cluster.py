"""``sora-node cluster``: the cluster as the running node on this machine sees it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from node.units import format_duration

from .access import Access, with_access
from .failure import EXIT_CODES, FAILED, Failure
from .live import ask_node, ask_within
from .output import fields, show_time, table

SLOW_WITHIN_S = 30.0


@click.group(epilog="\b\nExamples:\n  sora-node cluster members\n  sora-node cluster doctor\n\n" + EXIT_CODES)
def cluster() -> None:
    """Members, keys and events of the cluster, and why it does not form.

    These commands ask the running node, so they work on its machine only.
    """


@cluster.command(epilog="\b\nExamples:\n  sora-node cluster members\n  sora-node cluster members --json")
@with_access
def members(access: Access) -> None:
    """Nodes with their state, leader and connections."""
    found = ask_node(access, "cluster.members")
    access.answer(found, render_cluster(found))


@cluster.command(
    epilog="\b\nExamples:\n  sora-node cluster events\n  sora-node cluster events --after 120 --json"
)
@click.option("--after", default=0, show_default=True, help="Only those with a greater number.")
@with_access
def events(access: Access, after: int) -> None:
    """What happened since the node was started, the latest thousand: members, leaders, keys, user events."""
    found = ask_node(access, "cluster.events", after=after)["events"]
    rows = [
        (
            each["number"],
            show_time(datetime.fromtimestamp(each["at"], UTC)),
            each["kind"],
            each["node"] or "-",
            each["detail"],
        )
        for each in found
    ]
    headings = ("NUMBER", "TIME", "WHAT", "NODE", "DETAIL")
    access.answer(found, table(headings, rows) if rows else "nothing has happened")


@cluster.command(epilog="\b\nExample:\n  sora-node cluster doctor --json\n\n" + EXIT_CODES)
@with_access
def doctor(access: Access) -> None:
    """Try each step that a packet takes, and say what is wrong and what to do.

    Takes some seconds when peers are away. Exit status 1 when something is wrong.
    """
    found = ask_within(access, SLOW_WITHIN_S, "cluster.doctor")
    lines = []
    for each in found["findings"]:
        lines.append(f"{each['verdict']:<8} {each['about']}: {each['what']}")
        if each["cure"]:
            lines.append(f"{'':<8} -> {each['cure']}")
    access.answer(found, "\n".join(lines))
    if found["verdict"] == "error":
        raise SystemExit(FAILED)


@cluster.command(epilog="\b\nExample:\n  sora-node cluster leave\n\n" + EXIT_CODES)
@with_access
def leave(access: Access) -> None:
    """Leave the cluster in order; the node goes on serving mail, alone, until it is restarted.

    To stop a node use 'drain' or stop the service: both leave by themselves.
    """
    found = ask_within(access, SLOW_WITHIN_S, "cluster.leave")
    access.answer(found, f"{found['node']} has left the cluster; a restart brings it back")


@cluster.command(
    "force-leave",
    epilog="\b\nExamples:\n  sora-node cluster force-leave node-3\n"
    "  sora-node cluster force-leave --prune node-3\n\n" + EXIT_CODES,
)
@click.argument("node")
@click.option("--prune", is_flag=True, help="Forget it at once, instead of after a day.")
@with_access
def force_leave(access: Access, node: str, prune: bool) -> None:
    """Count a node that has failed, and will not come back, as one that has left."""
    found = ask_node(access, "cluster.force_leave", node=node, prune=prune)
    access.answer(found, f"{found['node']} counts as a node that has left")


@cluster.command(
    epilog="\b\nExamples:\n  sora-node cluster keys\n  sora-node cluster keys --rotate\n"
    '  sora-node cluster keys --install "$(openssl rand -base64 32)"\n'
    "  sora-node cluster keys --use 3f2a91\n  sora-node cluster keys --remove 77c0d2\n\n" + EXIT_CODES
)
@click.option("--install", metavar="KEY", help="Let all nodes understand it; base64.")
@click.option("--use", metavar="NAME", help="Let all nodes send with it.")
@click.option("--remove", metavar="NAME", help="Let all nodes forget it.")
@click.option("--rotate", is_flag=True, help="Make a new key, install it and use it.")
@with_access
def keys(access: Access, install: str | None, use: str | None, remove: str | None, rotate: bool) -> None:
    """Keys of the cluster, named by fingerprints, on each node; and changing them without a restart.

    A rotation: --rotate; put the new key, which is printed once, into secret_key on all nodes and the old one
    into secret_keys_old; and when all nodes have run with it, --remove the old one.
    """
    steps: dict[str, str | None] = {"install": install, "use": use, "remove": remove}
    given = [(step, key) for step, key in steps.items() if key is not None] + [("rotate", "")] * rotate
    if len(given) > 1:
        raise click.UsageError("one step at a time")
    step, key = given[0] if given else ("list", "")
    arguments = {"step": step, **({"key": key} if key else {})}
    found = ask_within(access, SLOW_WITHIN_S, "cluster.keys", arguments)
    access.answer(found, _render_keys(found))
    if any(each["is_done"] is not True for each in found["nodes"].values()):
        raise Failure("not all nodes have done it; it may be repeated", FAILED)


_HOW_TO_RETURN = "Who misses a new key comes back when secret_key in its configuration is that key."


def _render_keys(found: dict[str, Any]) -> str:
    answers = sorted(found["nodes"].items())
    words = {True: "done", False: "refused", None: "no answer"}
    columns: dict[str, list[str]] = {
        "NODE": [name for name, _ in answers],
        "ANSWER": [words[each["is_done"]] for _, each in answers],
        "SENDS WITH": [each["primary"] for _, each in answers],
        "KNOWS": [" ".join(each["keys"]) for _, each in answers],
        "MESSAGE": [each["message"] for _, each in answers],
    }
    told = {heading: column for heading, column in columns.items() if any(column)}  # not all steps tell all
    parts = [
        table(tuple(told), [tuple(each or "-" for each in row) for row in zip(*told.values(), strict=True)])
    ]
    if found["absent"]:
        parts.append(f"Away, and not asked: {', '.join(found['absent'])}. {_HOW_TO_RETURN}")
    if "new_key" in found:
        parts.append(f"The new key {found['key']}, shown this once:\n  {found['new_key']}")
    if "stopped_at" in found:
        parts.append(f"Stopped at {found['stopped_at']}: a node did not follow. All still know the old key.")
    return "\n\n".join(parts)


# --- for people ---------------------------------------------------------------------------------------


def render_cluster(found: dict[str, Any]) -> str:
    """Members and what is to be known of them."""
    head: dict[str, object] = {
        "node": f"{found['node']} ({found['state']})",
        "leader": found["leader"] or "none",
        **({"trouble": found["trouble"]} if found["trouble"] else {}),
        **({"drift": "; ".join(_drift(found["drift"]))} if found["drift"] else {}),
        "gossip": _gossip(found["gossip"]),
    }
    headings = ("", "NODE", "ADDRESS", "STATE", "FOR", "RTT", "INC", "VERSION", "CONNECTIONS", "BLOCKS")
    return fields(head) + "\n\n" + table(headings, [_member(each) for each in found["members"]])


def _member(each: dict[str, Any]) -> tuple[object, ...]:
    trip = each["round_trip_ms"]
    state = each["state"]
    if each["serving"] == "draining":
        state += ", draining"
    if each["drift"]:
        state += ", differs"
    counts = each["connections"]
    return (
        "*" if each["is_leader"] else ">" if each["is_self"] else "",
        each["name"],
        each["address"],
        state,
        format_duration(max(1, round(each["state_age_s"]))),
        "-" if trip is None else f"{trip:.1f} ms",
        each["incarnation"],
        each["version"] or ("agent" if each["kind"] == "agent" else "-"),
        ", ".join(f"{name} {counts[name]}" for name in sorted(counts)) or "-",
        "-" if each["blocks"] is None else str(each["blocks"]),
    )


def _drift(drift: dict[str, list[str]]) -> list[str]:
    return [f"{name} differs in {', '.join(sections)}" for name, sections in sorted(drift.items())]


def _gossip(health: dict[str, Any]) -> str:
    figures = health["figures"]
    rejected = sum(int(count) for name, count in figures.items() if name.startswith("rejected_"))
    return (
        f"{int(figures.get('packets_received', 0))} packets in, {int(figures.get('packets_sent', 0))} out,"
        f" {rejected} rejected, {int(figures.get('broadcasts_queued', 0))} queued,"
        f" awareness {int(figures.get('awareness', 0))}"
    )
