"""``sora-admin health``: how the running node does, for people and for monitoring programs."""

from __future__ import annotations

from typing import Any

import click

from node.control import ControlRefused, ControlUnusable, ask, control_path

from .access import Access, read_config, with_access
from .output import table

EXIT_CODES = """\b
Exit codes:
  0  ok
  1  degraded: the node serves, something needs attention
  2  down: the node cannot serve, or none runs here; also wrong usage or configuration"""
_CODES = {"ok": 0, "degraded": 1, "down": 2}


@click.command(
    "health",
    epilog="\b\nExamples:\n  sora-admin health --detailed\n  sora-admin health --json\n\n" + EXIT_CODES,
)
@click.option("--detailed", is_flag=True, help="Every component, also those that are well.")
@with_access
@click.pass_context
def health(context: click.Context, access: Access, detailed: bool) -> None:
    """Whether the node of this machine can serve, and what is wrong with its parts."""
    report = _ask(access)
    access.answer(report, _render(report, is_detailed=detailed))
    context.exit(_CODES[report["status"]])


def _ask(access: Access) -> dict[str, Any]:
    """A node that cannot be asked is down. Raises Failure."""
    try:
        report: dict[str, Any] = ask(control_path(read_config(access.config)), "health", timeout_s=15.0)
    except (ControlUnusable, ControlRefused) as error:
        return {"status": "down", "error": str(error), "components": []}
    return report


def _render(report: dict[str, Any], *, is_detailed: bool) -> str:
    if "error" in report:
        return f"down: {report['error']}"
    head = f"{report['node'] or 'this node'} is {report['status']}"
    if is_detailed:
        rows = [
            (
                each["name"],
                each["status"],
                "yes" if each["critical"] else "no",
                each["since"] or "",
                each["detail"],
            )
            for each in report["components"]
        ]
        return f"{head}\n\n{table(('COMPONENT', 'STATE', 'CRITICAL', 'SINCE', 'DETAIL'), rows)}"
    troubles = [each for each in report["components"] if each["status"] != "ok"]
    return "\n".join(
        [head, *(f"  {each['name']} is {each['status']}: {each['detail']}" for each in troubles)]
    )
