"""``sora-node drain``: take the running node out of service."""

from __future__ import annotations

import click

from node.drain import WITHIN_S
from node.units import UnitError, format_duration, parse_duration

from .access import Access, with_access
from .failure import EXIT_CODES
from .live import ask_node


@click.command(
    "drain",
    epilog="\b\nExamples:\n  sora-node drain --within 15m\n  sora-node drain --undo\n\n" + EXIT_CODES,
)
@click.option("--within", default=format_duration(round(WITHIN_S)), show_default=True, help="At the latest.")
@click.option("--undo", is_flag=True, help="Take a drain back: connections are accepted again.")
@with_access
def drain(access: Access, within: str, *, undo: bool) -> None:
    """Let the running node end when its sessions have gone: no new connections, /readyz answers 503.

    Returns at once. Sessions that are left at the latest moment get a goodbye. The node's exit status is 0.
    """
    if undo:
        found = ask_node(access, "drain.undo")
        access.answer(found, f"The node serves again; {found['sessions']} sessions are connected.")
        return
    try:
        within_s = parse_duration(within)
    except UnitError as error:
        raise click.BadParameter(str(error), param_hint="--within") from error
    found = ask_node(access, "drain", within_s=within_s)
    access.answer(found, f"The node drains; {found['sessions']} sessions are connected.")
