"""Lean blocking clients, so that the load generator costs little of the machine it shares."""

from __future__ import annotations

import selectors
import socket
import ssl
from collections.abc import Sequence


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


class _Delivery:
    """One connection of ``deliver_at_once``: sends the next piece when the replies to the last are there."""

    def __init__(self, port: int, recipient: str, messages: Sequence[bytes]) -> None:
        self.client = Lmtp(port)
        self._envelope = b"MAIL FROM:<sender@example.test>\r\nRCPT TO:<%s>\r\nDATA\r\n" % recipient.encode()
        self._waiting = list(reversed(messages))
        self._has_sent_data = True

    def go_on(self) -> bool:
        """After a reply, or to begin; whether there is anything left to wait for."""
        if self._has_sent_data:
            self._has_sent_data = False
            if not self._waiting:
                return False
            self.client.socket.sendall(self._envelope)
        else:
            self._has_sent_data = True
            self.client.socket.sendall(self._waiting.pop() + b".\r\n")
        return True

    def read(self) -> bool:
        """What has arrived; whether it completes the replies that were waited for."""
        self.client.more()
        lines = self.client.buffer.split(b"\r\n")[:-1]
        if len(lines) < (1 if self._has_sent_data else 3):
            return False
        if lines[-1][:3] != (b"250" if self._has_sent_data else b"354"):
            raise RuntimeError(lines)
        self.client.buffer = b""
        return True


def deliver_at_once(port: int, recipients: Sequence[str], messages: Sequence[Sequence[bytes]]) -> None:
    """A connection for each recipient with its messages one after the other, all from one thread: with
    threads the generator would take several times the CPU. No line of a message begins with a dot."""
    with selectors.DefaultSelector() as selector:
        for recipient, own in zip(recipients, messages, strict=True):
            delivery = _Delivery(port, recipient, own)
            if delivery.go_on():
                selector.register(delivery.client.socket, selectors.EVENT_READ, delivery)
        while selector.get_map():
            for key, _events in selector.select():
                delivery = key.data
                if delivery.read() and not delivery.go_on():
                    selector.unregister(delivery.client.socket)
                    delivery.client.close()
