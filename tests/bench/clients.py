"""Lean blocking clients, so that the load generator costs little of the machine it shares."""

from __future__ import annotations

import socket
import ssl


class Lines:
    """A socket that is read by lines."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            self.more()
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def more(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError(f"closed after {self.buffer[-200:]!r}")
        self.buffer += data

    def close(self) -> None:
        self.socket.close()


class Imap(Lines):
    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        super().__init__(port, context)
        self.tag = 0
        self.line()

    def command(self, text: str, literal: bytes = b"") -> bytes:
        """All bytes up to and with the tagged reply, which must be OK.

        Collected in pieces and looked at from the end only, so that large answers stay cheap.
        """
        self.tag += 1
        tag = b"t%d " % self.tag
        self.socket.sendall(tag + text.encode() + b"\r\n" + literal)
        pieces, tail = [self.buffer], self.buffer[-2000:]
        self.buffer = b""
        while not (tail.endswith(b"\r\n") and (b"\r\n" + tail)[:-2].rpartition(b"\r\n")[2].startswith(tag)):
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError(f"closed after {tail!r}")
            pieces.append(data)
            tail = (tail + data)[-2000:]
        reply = (b"\r\n" + tail)[:-2].rpartition(b"\r\n")[2]
        if not reply.startswith(tag + b"OK"):
            raise RuntimeError(f"{text[:80]}: {reply!r}")
        return b"".join(pieces)

    def login(self, user: str, password: str) -> None:
        self.command(f'LOGIN "{user}" "{password}"')

    def append(self, mailbox: str, message: bytes) -> None:
        self.command(f"APPEND {mailbox} {{{len(message)}+}}", message + b"\r\n")


class Pop3(Lines):
    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        super().__init__(port, context)
        self.ok()

    def ok(self) -> bytes:
        line = self.line()
        if not line.startswith(b"+OK"):
            raise RuntimeError(line)
        return line

    def command(self, text: str) -> bytes:
        self.socket.sendall(text.encode() + b"\r\n")
        return self.ok()

    def body(self) -> int:
        """Read a multi-line reply; how many octets it had."""
        while not (self.buffer.endswith(b"\r\n.\r\n") or self.buffer == b".\r\n"):
            self.more()
        size, self.buffer = len(self.buffer), b""
        return size


class Lmtp(Lines):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.reply()
        self.socket.sendall(b"LHLO bench.example.test\r\n")
        self.reply()

    def reply(self) -> bytes:
        while (line := self.line())[3:4] == b"-":
            continue
        return line

    def deliver(self, recipient: str, message: bytes) -> None:
        """``message`` has no line that begins with a dot and ends with CRLF."""
        self.socket.sendall(
            b"MAIL FROM:<sender@example.test>\r\nRCPT TO:<%s>\r\nDATA\r\n" % recipient.encode()
        )
        replies = [self.reply() for _ in range(3)]
        if replies[2][:3] != b"354":
            raise RuntimeError(replies)
        self.socket.sendall(message + b".\r\n")
        reply = self.reply()
        if reply[:3] != b"250":
            raise RuntimeError(reply)
