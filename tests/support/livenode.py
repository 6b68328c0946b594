"""What the tests of a running node do with it, line by line: deliver, log in, read all back."""

from __future__ import annotations

import itertools
import json
import ssl

from .corpus import strip_trace
from .lineclient import LineClient
from .nodeprocess import NodeProcess


def client_context(node: NodeProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(node.certificate))


def message(number: int, size: int = 500) -> bytes:
    text = b"".join(b"line %d of message %d\r\n" % (n, number) for n in range(size // 25))
    return b"Subject: outage %d\r\nMessage-ID: <outage.%d@example.test>\r\n\r\n" % (number, number) + text


def start_delivery(node: NodeProcess, address: str) -> LineClient:
    """Up to the reply to RCPT, which has not been read yet."""
    client = LineClient(node.port("lmtp"))
    client.lmtp_reply()
    assert client.lmtp(b"LHLO client.example.test").startswith(b"250")
    assert client.lmtp(b"MAIL FROM:<sender@example.test>").startswith(b"250")
    client.send(b"RCPT TO:<%s>\r\n" % address.encode())
    return client


def finish_delivery(client: LineClient, mail: bytes) -> bytes:
    """The reply for the one recipient."""
    assert client.lmtp(b"DATA").startswith(b"354")
    client.send(mail + b".\r\n")
    return client.lmtp_reply()


def deliver(node: NodeProcess, address: str, mail: bytes) -> bytes:
    """The first reply that refuses, or the last."""
    with start_delivery(node, address) as client:
        rcpt = client.lmtp_reply()
        return rcpt if not rcpt.startswith(b"250") else finish_delivery(client, mail)


def imap(node: NodeProcess, port: str = "imaps") -> LineClient:
    client = LineClient(node.port(port), client_context(node) if port.endswith("s") else None)
    assert client.line().startswith(b"* OK")
    return client


def imap_login(node: NodeProcess, password: str | None = None) -> bytes:
    with imap(node) as client:
        return client.login(node.address, password or node.password)


def imap_inbox(node: NodeProcess) -> LineClient:
    client = imap(node)
    assert client.login(node.address, node.password).startswith(b"OK")
    assert client.imap(b"SELECT INBOX")[0].startswith(b"OK")
    return client


def pop3(node: NodeProcess) -> tuple[LineClient, bytes]:
    """A client and the answer to its password."""
    client = LineClient(node.port("pop3s"), client_context(node))
    assert client.line().startswith(b"+OK")
    assert client.pop3(b"USER " + node.address.encode()).startswith(b"+OK")
    return client, client.pop3(b"PASS " + node.password.encode())


def pop3_login(node: NodeProcess) -> bytes:
    client, answer = pop3(node)
    client.close()
    return answer


def stored(node: NodeProcess) -> list[bytes]:
    """All messages of the INBOX, which were delivered, without trace headers, sorted."""
    return sorted(strip_trace(each) for each in stored_raw(node))


def stored_raw(node: NodeProcess) -> list[bytes]:
    """All messages of the INBOX as they are."""
    with imap_inbox(node) as client:
        status, lines = client.imap(b"UID FETCH 1:* (BODY.PEEK[])")
        assert status.startswith(b"OK"), status
        return [after for line, after in itertools.pairwise(lines) if line.endswith(b"}")]


def health_of(node: NodeProcess, component: str) -> str:
    """Its status, as it was 3 s ago at the earliest."""
    components = json.loads(node.admin("health", "--json", check=False))["components"]
    return next(str(each["status"]) for each in components if each["name"] == component)
