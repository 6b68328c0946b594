"""A client over a real socket that sees every line: for what client libraries hide or refuse to send."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType

from .waiting import PATIENCE_S


class LineClient:
    """Blocking; a reply that does not come within ``PATIENCE_S`` is a TimeoutError."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None = None,
        patience_s: float = PATIENCE_S,
        *,
        source: str = "127.0.0.1",
        host: str = "127.0.0.1",
    ) -> None:
        """``source``: of connections to this machine."""
        ours = (source, 0) if host == "127.0.0.1" else None
        self.socket = socket.create_connection((host, port), patience_s, ours)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._tags = 0
        self._buffer = b""

    # --- bytes ---

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Without its line end; empty at the end of the connection."""
        while b"\n" not in self._buffer:
            piece = self.socket.recv(65536)
            if not piece:
                return b""
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = self.socket.recv(65536)
            assert piece, "closed within a literal"
            self._buffer += piece
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def until_closed(self) -> bytes:
        """All that still comes."""
        found, self._buffer = self._buffer, b""
        while True:
            try:
                piece = self.socket.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return found
            if not piece:
                return found
            found += piece

    # --- protocols ---

    def imap(self, command: bytes) -> tuple[bytes, list[bytes]]:
        """The tagged reply without its tag, and the lines before it; a literal is a line of its own."""
        self._tags += 1
        tag = b"t%d " % self._tags
        self.send(tag + command + b"\r\n")
        untagged = []
        while not (line := self.line()).startswith(tag):
            assert line, f"closed after {untagged[-3:]}"
            untagged.append(line)
            if line.endswith(b"}"):
                untagged.append(self.take(int(line[line.rindex(b"{") + 1 : -1])))
        return line.removeprefix(tag), untagged

    def login(self, user: str, password: str) -> bytes:
        """IMAP; the tagged reply."""
        return self.imap(b'LOGIN "%s" "%s"' % (user.encode(), password.encode()))[0]

    def pop3(self, command: bytes) -> bytes:
        """The status line."""
        self.send(command + b"\r\n")
        return self.line()

    def pop3_lines(self, command: bytes) -> tuple[bytes, bytes]:
        """The status line and the unstuffed text of a multi-line reply."""
        status = self.pop3(command)
        lines = []
        if status.startswith(b"+OK"):
            while (line := self.line()) != b".":
                lines.append(line.removeprefix(b".") + b"\r\n")
        return status, b"".join(lines)

    def lmtp(self, command: bytes) -> bytes:
        """The last line of the reply."""
        self.send(command + b"\r\n")
        return self.lmtp_reply()

    def lmtp_reply(self) -> bytes:
        while (line := self.line())[3:4] == b"-":
            pass
        return line

    # --- life ---

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> LineClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
