"""A ManageSieve client that sees every line."""

from __future__ import annotations

import base64

from .lineclient import LineClient
from .livenode import client_context
from .nodeprocess import NodeProcess


class SieveEditor(LineClient):
    """A client over STARTTLS that has logged in."""

    def __init__(self, node: NodeProcess, account: str, password: str) -> None:
        super().__init__(node.port("managesieve"), None)
        assert b'"STARTTLS"' in self.ask(b"")[1]
        assert self.ask(b"STARTTLS\r\n")[0].startswith(b"OK")
        self.socket = client_context(node).wrap_socket(self.socket, server_hostname="localhost")
        assert b'"SASL" "PLAIN LOGIN"' in self.ask(b"")[1]
        response = base64.b64encode(b"\0%b\0%b" % (account.encode(), password.encode()))
        assert self.ask(b'AUTHENTICATE "PLAIN" "%b"\r\n' % response)[0] == b'OK "Logged in"'

    def ask(self, command: bytes) -> tuple[bytes, list[bytes]]:
        """The status line and the lines before it."""
        self.send(command)
        lines: list[bytes] = []
        while not (line := self.line()).startswith((b"OK", b"NO", b"BYE")):
            assert line, f"closed after {lines}"
            lines.append(line)
        if line.endswith(b"}"):
            size = int(line[line.rindex(b"{") + 1 : -1])
            line += self.take(size) + self.line()
        return line, lines
