"""What the database layer must be told; ``node.config`` builds it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """One role (write or read) and the servers that can play it.

    A host that begins with ``/`` is a directory with a Unix socket. For the write role ``hosts`` is a
    failover list: the first that accepts writes is used. For the read role every host is used.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    database: str
    tls: bool = False
    max_connections: int = 50
    min_connections: int = 0
    max_lifetime_s: float = 3600.0
    max_idle_s: float = 300.0
    query_timeout_s: float = 30.0
    log_statements: bool = False  # every statement with its duration, without parameters


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The endpoints and how long each kind of statement may take.

    Without ``read`` every statement goes to the write endpoint.
    """

    write: EndpointSettings
    read: EndpointSettings | None = None
    query_timeout_s: float = 30.0
    write_timeout_s: float = 15.0
    lock_timeout_s: float = 10.0
    search_timeout_s: float = 60.0
