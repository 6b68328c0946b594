"""What a POP3 client makes of a reply."""

from __future__ import annotations


def message_of(reply: bytes) -> bytes:
    """The message in the reply to RETR or TOP, for a client that takes LF for the end of a line."""
    status, _, rest = reply.partition(b"\r\n")
    assert status.startswith(b"+OK")
    lines = rest.split(b"\n")
    assert lines.index(b".\r") == len(lines) - 2
    return b"\n".join(line.removeprefix(b".") for line in (*lines[:-2], b""))
