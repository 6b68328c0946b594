"""Clients of the lab's nodes, connecting from the client's machine."""

from __future__ import annotations

import imaplib
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from . import namespaces
from .lab import ACCOUNT, ADDRESSES, NODES, Lab

IMAPS = 993
PATIENCE_S = 60.0


def add_neighbourhood(lab: Lab, ips: Sequence[str]) -> None:
    """More addresses for the client's machine, far from its first one: the rules about guessing are gentle
    with the neighbourhood of a successful login."""
    for ip in ips:
        _ip(lab, "client", "addr", "add", f"{ip}/24", "dev", "eth0")
    for name in NODES:
        _ip(lab, name, "route", "add", f"{ips[0].rpartition('.')[0]}.0/24", "dev", "eth0")


def _ip(lab: Lab, machine: str, *arguments: str) -> None:
    subprocess.run(["ip", "-n", lab.namespace(machine), *arguments], check=True)


class _Imap(imaplib.IMAP4):
    """Over a socket that is there already."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        super().__init__("lab")

    def _create_socket(self, _timeout: float | None) -> ssl.SSLSocket:
        return self._connection


@contextmanager
def imap(lab: Lab, node: str, source: str = ADDRESSES["client"]) -> Iterator[imaplib.IMAP4]:
    """Connected, not logged in. Raises OSError or imaplib.IMAP4.error when the node does not want us."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with namespaces.inside(lab.namespace("client")):
        plain = socket.create_connection((ADDRESSES[node], IMAPS), PATIENCE_S, source_address=(source, 0))
    with context.wrap_socket(plain) as connection:
        client = _Imap(connection)
        yield client
        client.shutdown()


def can_log_in(lab: Lab, node: str, source: str = ADDRESSES["client"], password: str = "") -> bool:
    try:
        with imap(lab, node, source) as client:
            client.login(ACCOUNT, password or lab.password)
    except (OSError, imaplib.IMAP4.error):
        return False
    return True


def guess(lab: Lab, node: str, source: str, password: str) -> None:
    """One wrong password, however it is answered."""
    assert not can_log_in(lab, node, source, password)
