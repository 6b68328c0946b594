"""Commands that ask the running node instead of the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.control import ControlRefused, ControlUnusable, ask, control_path

from .access import Access, read_config
from .failure import EXISTS, FAILED, NOT_FOUND, UNAVAILABLE, USAGE, Failure

ANSWERS_WITHIN_S: Final = 10.0
_CODES = {
    "usage": USAGE,
    "not_found": NOT_FOUND,
    "exists": EXISTS,
    "busy": UNAVAILABLE,
}


def ask_node(access: Access, command: str, **arguments: object) -> Any:
    """What the node of this configuration, on this machine, replies. Raises Failure."""
    return ask_within(access, ANSWERS_WITHIN_S, command, arguments)


def ask_within(
    access: Access, timeout_s: float, command: str, arguments: Mapping[str, object] | None = None
) -> Any:
    """The same for what takes its time. Raises Failure."""
    path = control_path(read_config(access.config))
    try:
        return ask(path, command, arguments, timeout_s=timeout_s)
    except ControlRefused as error:
        raise Failure(str(error), _CODES.get(error.code, FAILED)) from error
    except ControlUnusable as error:
        raise Failure(
            f"{error}\nThis command asks a running node, on its own machine.", UNAVAILABLE
        ) from error
