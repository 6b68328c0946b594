"""When STARTTLS may go on: one rule for every protocol that has it.

Whoever sends anything behind it is refused and closed; the package's README has the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import TypeVar

from .ports import Connection, ServerPolicy

Reply = TypeVar("Reply")


class Obstacle(Enum):
    HAS_TLS = auto()
    NO_TLS = auto()  # this server has no certificate
    EARLY_INPUT = auto()  # behind the command; it is dropped, and the connection has to end


def obstacle(policy: ServerPolicy, connection: Connection) -> Obstacle | None:
    if connection.has_tls:
        return Obstacle.HAS_TLS
    if policy.tls_context() is None:
        return Obstacle.NO_TLS
    return Obstacle.EARLY_INPUT if connection.drop_early_input() else None


def start_tls(
    policy: ServerPolicy,
    connection: Connection,
    shake_hands: Callable[[], Awaitable[None]],
    send: Callable[[Reply], None],
    refusals: Mapping[Obstacle, Reply],
) -> Awaitable[None] | None:
    """A session's answer to the command: ``shake_hands`` says yes and does it, or a refusal was sent."""
    found = obstacle(policy, connection)
    if found is None:
        return shake_hands()
    send(refusals[found])
    if found is Obstacle.EARLY_INPUT:
        connection.close()
    return None
