"""An IMAP client that hides nothing: commands as bytes, answers as parsed values.

Values: a list for parentheses, ``bytes`` for strings (whichever way they were sent), ``Atom`` for everything
else; numbers and NIL stay atoms, so that a string ``"NIL"`` is told from the atom.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_LITERAL = re.compile(rb"~?\{(\d+)\}\r\n\Z")
_TOKEN = re.compile(rb'[^\x00-\x20()"{\[]+')
_STATUSES = {b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH"}


class Atom(bytes):
    """Not a string; compares without regard to case through ``upper``."""

    def __repr__(self) -> str:
        return self.decode("latin-1")


NIL = Atom(b"NIL")


@dataclass
class Reply:
    """One command's answer."""

    status: str
    code: bytes  # between the brackets, may be empty
    text: bytes
    untagged: list[bytes] = field(default_factory=list)

    def data(self, name: bytes) -> list[list[Any]]:
        """Parsed untagged responses of that name, the name included."""
        found = []
        for line in self.untagged:
            words = line[2:].split(None, 2)
            if name in (words[0].upper(), words[1].upper() if len(words) > 1 else b""):
                found.append(parse(line[2:]))
        return found

    def fetched(self) -> dict[int, dict[bytes, Any]]:
        """FETCH items by sequence number; of several responses for one message the later values count."""
        found: dict[int, dict[bytes, Any]] = {}
        for row in self.data(b"FETCH"):
            items = row[2]
            names = [name.upper() for name in items[::2]]
            found.setdefault(int(row[0]), {}).update(zip(names, items[1::2], strict=True))
        return found

    def codes(self) -> list[bytes]:
        """Response codes of untagged status responses and of the tagged one."""
        found = [match[1] for line in self.untagged if (match := re.match(rb"\* \w+ \[([^\]]*)\]", line))]
        return [*found, *([self.code] if self.code else [])]


def parse(data: bytes) -> list[Any]:
    """All values of a response line."""
    return _Parser(data).values()


class _Parser:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def values(self) -> list[Any]:
        stack: list[list[Any]] = [[]]
        while self.position < len(self.data):
            octet = self.data[self.position : self.position + 1]
            if octet in b" \r\n":
                self.position += 1
            elif octet == b"(":
                self.position += 1
                stack.append([])
            elif octet == b")":
                self.position += 1
                done = stack.pop()
                stack[-1].append(done)
            else:
                stack[-1].append(self._one())
        assert len(stack) == 1, f"unbalanced: {self.data!r}"
        return stack[0]

    def _one(self) -> bytes:
        data, start = self.data, self.position
        if data[start : start + 1] == b'"':
            return self._quoted()
        literal = re.compile(rb"~?\{(\d+)\}\r\n").match(data, start)
        if literal is not None:
            self.position = literal.end() + int(literal[1])
            return data[literal.end() : self.position]
        while True:  # an atom, where a section in brackets belongs to it
            match = _TOKEN.match(data, self.position)
            if match is not None:
                self.position = match.end()
            elif data[self.position : self.position + 1] == b"[":
                self.position = data.index(b"]", self.position) + 1
            else:
                break
        assert self.position > start, f"at {start}: {data!r}"
        return Atom(data[start : self.position])

    def _quoted(self) -> bytes:
        match = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"').match(self.data, self.position)
        assert match is not None, f"at {self.position}: {self.data[:500]!r}"
        self.position = match.end()
        return re.sub(rb'\\(["\\])', rb"\1", match[1])


class ImapRaw:
    """A connection. Commands may be given in pieces; between them go synchronizing literals."""

    def __init__(self, port: int, user: str = "", password: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._file = self._socket.makefile("rb")
        self._count = 0
        self.greeting = self.line()
        if user:
            assert self.command(b"LOGIN %b %b" % (user.encode(), password.encode())).status == "OK"

    def line(self) -> bytes:
        """A whole response, literals included."""
        data = b""
        while True:
            piece = self._file.readline()
            if not piece.endswith(b"\n"):
                raise ConnectionError(f"closed after {data + piece!r}")
            data += piece
            match = _LITERAL.search(piece)
            if match is None:
                return data
            data += self._file.read(int(match[1]))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def command(self, *pieces: bytes) -> Reply:
        """``pieces`` after the first are literals: the one before them gets its announcement."""
        self._count += 1
        tag = b"t%d" % self._count
        data = tag + b" " + pieces[0]
        untagged: list[bytes] = []
        for literal in pieces[1:]:
            self.send(data + b"{%d}\r\n" % len(literal))
            while not (line := self.line()).startswith(b"+"):
                if line.startswith(tag + b" "):
                    return _tagged(line, tag, untagged)
                untagged.append(line)
            data = literal
        self.send(data + b"\r\n")
        return self.reply(tag, untagged)

    def reply(self, tag: bytes, untagged: list[bytes] | None = None) -> Reply:
        found = [] if untagged is None else untagged
        while not (line := self.line()).startswith(tag + b" "):
            found.append(line)
        return _tagged(line, tag, found)

    def ok(self, *pieces: bytes) -> Reply:
        reply = self.command(*pieces)
        assert reply.status == "OK", (pieces, reply)
        return reply

    def append(self, mailbox: bytes, message: bytes, options: bytes = b"") -> Reply:
        return self.ok(b"APPEND %b %b" % (mailbox, options), message)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def _tagged(line: bytes, tag: bytes, untagged: list[bytes]) -> Reply:
    match = re.match(rb"(\w+) (?:\[([^\]]*)\] ?)?(.*)\r\n", line[len(tag) + 1 :], re.DOTALL)
    assert match is not None, line
    return Reply(match[1].decode(), match[2] or b"", match[3], untagged)


def numbers(reply: Reply) -> list[int]:
    """What SEARCH found."""
    return [int(word) for row in reply.data(b"SEARCH") for word in row[1:] if isinstance(word, Atom)]


def flatten(value: Any) -> Iterator[bytes]:
    if isinstance(value, list):
        for each in value:
            yield from flatten(each)
    else:
        yield value


def flags_of(items: Iterable[bytes]) -> frozenset[bytes]:
    """Without regard to case, and without \\Recent, which is each server's own affair."""
    return frozenset(name.lower() for name in items if name.lower() != b"\\recent")
