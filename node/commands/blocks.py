"""``sora-admin blocks``: addresses that a running node refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from node.units import UnitError, format_duration, parse_duration

from .access import Access, with_access
from .failure import EXIT_CODES
from .live import ask_node
from .output import printable, table

RULES = {
    "user": "failures of one user",
    "address": "failures of the address",
    "fast": "many users at once",
    "admin": "operator",
}


@click.group(epilog="\b\nExample:\n  sora-admin blocks why 192.0.2.7\n\n" + EXIT_CODES)
def blocks() -> None:
    """Addresses that the node refuses, after failed logins or because you say so.

    These commands ask the running node, so they work on its machine only.
    """


@blocks.command("list", epilog="\b\nExample:\n  sora-admin blocks list --json")
@with_access
def list_command(access: Access) -> None:
    """Blocks in force, the latest first, up to 10,000."""
    found = ask_node(access, "blocks.list")
    rows = [_row(block, found["now"]) for block in found["blocks"]]
    headings = ("ADDRESS", "USER", "CAUSE", "FAILURES", "SINCE", "FOR", "NODE")
    text = table(headings, rows) if rows else "nothing is blocked"
    if found["total"] > len(rows):
        text += f"\n... and {found['total'] - len(rows)} older ones"
    access.answer(found["blocks"], text)


@blocks.command(
    epilog="\b\nExamples:\n  sora-admin blocks why 192.0.2.7\n  sora-admin blocks why 2001:db8::7"
)
@click.argument("address")
@with_access
def why(access: Access, address: str) -> None:
    """What counts against ADDRESS, which rule blocks it, until when, and what would exempt it."""
    found = ask_node(access, "blocks.why", address=address)
    access.answer(found, "\n\n".join(_paragraphs(found)))


@blocks.command(
    epilog="\b\nExamples:\n  sora-admin blocks add 192.0.2.7\n"
    "  sora-admin blocks add 192.0.2.0/24 --for 7d --reason 'ticket 4711'"
)
@click.argument("subject", metavar="ADDRESS|NETWORK")
@click.option("--for", "lasts", help="How long, such as 12h or 7d. Default: until it is removed.")
@click.option("--reason", default="", help="For the list and the log.")
@with_access
def add(access: Access, subject: str, lasts: str | None, reason: str) -> None:
    """Refuse ADDRESS or NETWORK. Sessions that are open stay."""
    block = ask_node(access, "blocks.add", subject=subject, lasts_s=_seconds(lasts), reason=reason)
    text = f"{block['subject']} is blocked " + (f"for {lasts}" if lasts else "until it is removed")
    if block["exempt_on"]:
        text += f"\nIt is exempt on {', '.join(block['exempt_on'])}, where the block does not hold."
    access.answer(block, text)


@blocks.command(
    epilog="\b\nExamples:\n  sora-admin blocks remove 192.0.2.7\n"
    "  sora-admin blocks remove 192.0.2.7 --user ann@example.org"
)
@click.argument("subject", metavar="ADDRESS|NETWORK")
@click.option("--user", help="Only the block of this user from there.")
@with_access
def remove(access: Access, subject: str, user: str | None) -> None:
    """End all blocks of ADDRESS or NETWORK, at once, and forget the failures that led to them."""
    arguments = {"subject": subject} | ({"user": user} if user else {})
    removed = ask_node(access, "blocks.remove", **arguments)["removed"]
    lines = [
        f"{each['subject']}{' as ' + each['user'] if each['user'] else ''} is not blocked any more"
        for each in removed
    ]
    access.answer(removed, "\n".join(lines))


def _row(block: dict[str, Any], now: float) -> tuple[object, ...]:
    left = "ever" if block["until"] is None else format_duration(max(1, round(block["until"] - now)))
    since = datetime.fromtimestamp(block["since"], UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    cause = block["reason"] or RULES[block["rule"]]
    return (block["subject"], block["user"], cause, block["count"], since, left, block["origin"])


def _paragraphs(found: dict[str, Any]) -> list[str]:
    """One for each view; servers that see it alike share one."""
    views: dict[tuple[str, ...], list[str]] = {}
    for name, seen in found["servers"].items():
        lines = [printable(each) for each in seen["words"]]
        if seen["is_refused_at_connect"]:
            lines.append("It is refused as soon as it connects.")
        if found["blocks"] and seen["hint"]:
            lines.append(seen["hint"])
        views.setdefault(tuple(lines), []).append(name)
    return [
        f"{found['address']} on {', '.join(names)}:\n" + "\n".join(words) for words, names in views.items()
    ]


def _seconds(text: str | None) -> float | None:
    try:
        seconds = None if text is None else parse_duration(text)
    except UnitError as error:
        raise click.BadParameter(f"{error} {error.suggestion}".strip(), param_hint="--for") from error
    if seconds == 0:
        raise click.BadParameter("a block lasts longer than nothing", param_hint="--for")
    return seconds
