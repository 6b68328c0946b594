"""Commands that ask the running node instead of the database."""

from __future__ import annotations

from typing import Any

from node.control import ControlRefused, ControlUnusable, ask, control_path

from .access import Access, read_config
from .failure import EXISTS, FAILED, NOT_FOUND, UNAVAILABLE, USAGE, Failure

_CODES = {
    "usage": USAGE,
    "not_found": NOT_FOUND,
    "exists": EXISTS,
    "busy": UNAVAILABLE,
}


def ask_node(access: Access, command: str, **arguments: object) -> Any:
    """What the node of this configuration, on this machine, replies. Raises Failure."""
    path = control_path(read_config(access.config))
    try:
        return ask(path, command, arguments)
    except ControlRefused as error:
        raise Failure(str(error), _CODES.get(error.code, FAILED)) from error
    except ControlUnusable as error:
        raise Failure(
            f"{error}\nThis command asks a running node, on its own machine.", UNAVAILABLE
        ) from error
