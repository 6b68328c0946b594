"""Scripts for what users do to messages (imapsieve), as this node runs them."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from protocols.imap.eventqueue import EventQueue
from protocols.imap.eventscripts import EventScripts

from .sieve import allowed_extensions

if TYPE_CHECKING:
    from protocols.ports import Services

    from .config import Config

# RFC 6785 §2.1: who has the first has the others.
NEEDED: Final = frozenset({"imapsieve", "environment", "imap4flags"})
MANAGESIEVE_PORT: Final = 4190


def event_queue(config: Config, services: Services) -> EventQueue | None:
    """For the IMAP sessions of a process, with these services. None: the site does not allow it."""
    if services.annotations is None or services.filter is None:
        return None
    if not allowed_extensions(config.sieve) >= NEEDED:
        return None
    results = Counter[str]()
    scripts = EventScripts(services, config.hostname or socket.getfqdn(), results=results)
    return EventQueue(services.annotations, scripts.run, results=results)


def sieve_url(config: Config, sockets: Mapping[str, Sequence[socket.socket]]) -> str:
    """Of the node's first ManageSieve server (RFC 5804 §3); empty: there is none. ``sockets`` are bound."""
    for server in config.servers:
        if server.start and server.type == "managesieve" and sockets.get(server.name):
            port = sockets[server.name][0].getsockname()[1]
            host = config.hostname or socket.getfqdn()
            return f"sieve://{host}" if port == MANAGESIEVE_PORT else f"sieve://{host}:{port}"
    return ""
