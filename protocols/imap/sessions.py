"""The session factory of an IMAP server."""

from __future__ import annotations

from protocols.ports import Connection, Machine, ServerPolicy, Services, Session, SessionFactory

from .commands import COMMANDS
from .dispatcher import Dispatcher
from .machine import ImapMachine
from .registry import CommandTable
from .session import ImapSession
from .views import ViewRegistry


def imap_sessions(services: Services, policy: ServerPolicy, views: ViewRegistry) -> SessionFactory:
    """``views`` is the process's, shared by all its IMAP servers."""
    table = CommandTable(COMMANDS)

    def make(connection: Connection) -> tuple[Machine, Session]:
        machine = ImapMachine()
        session = ImapSession(connection, machine, services, policy, views, table)
        return machine, Dispatcher(session, machine)

    return make
