"""What is measured: the same for every server."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.corpus import binary, headers, text

from . import crowds
from .clients import Imap, Lmtp, Pop3, deliver_at_once
from .measure import Server, pss_bytes

SMALL, LARGE = 4 * 1024, 100 * 1024


def sized(seed: int, size: int) -> bytes:
    """One message of about ``size`` bytes, unlike every other: text when small, an attachment when large."""
    rng = random.Random(seed)
    head = headers(rng, f"{seed}.{rng.random()}@bench.example.test", "user@example.test")
    if size <= 2 * SMALL:
        body = text(rng, size // 75)
    else:
        body = binary(rng, int((size - len(head)) * 0.74))
    return head + b"Content-Type: text/plain\r\n\r\n" + body


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """``work(n)`` at the same time in ``count`` threads; the first failure is raised."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, n) for n in range(count)]:
            done.result()


def delivery(server: Server, scale: float) -> None:
    """LMTP, one recipient a message, at 1, 8 and 32 connections."""
    for size, label, total in ((SMALL, "4 KB", 3200), (LARGE, "100 KB", 640)):
        for connections in (1, 8, 32):
            each = max(2, int(total * scale * (0.5 if connections == 1 else 1)) // connections)
            users = [next(server.users) for _ in range(connections)]
            made = [
                [sized(hash((n, k, size, connections)), size) for k in range(each)]
                for n in range(connections)
            ]
            name = f"LMTP {label}, {connections} connections"
            with server.measured(name, each * connections, settle_s=2.0):  # Sora uploads behind its replies
                deliver_at_once(server.lmtp, users, made)


def fill(server: Server, user: str, count: int) -> None:
    """``count`` messages of 4 KB in the user's INBOX."""
    clients = [Lmtp(server.lmtp) for _ in range(4)]

    def work(n: int) -> None:
        for k in range(n, count, 4):
            clients[n].deliver(user, sized(k, SMALL))

    in_threads(4, work)
    for client in clients:
        client.close()


def logins(server: Server, scale: float) -> None:
    users = [next(server.users) for _ in range(5)]
    count = int(400 * scale)
    for user in users:  # the first login of a user hashes; these figures are of reconnecting clients
        client = Imap(server.imap)
        client.login(user, server.password)
        client.close()
    with server.measured("LOGIN, connection included", count):
        for n in range(count):
            client = Imap(server.imap)
            client.login(users[n % len(users)], server.password)
            client.close()


def mailbox_work(server: Server, scale: float) -> None:
    """One mailbox of 10,000 messages, then one of 100,000."""
    user = next(server.users)
    count = int(10_000 * scale)
    fill(server, user, count)
    client = Imap(server.imap)
    client.login(user, server.password)
    client.command("SELECT INBOX")
    for label, items in (
        ("FETCH FLAGS, per message", "(UID FLAGS)"),
        ("FETCH ENVELOPE, per message", "(UID FLAGS RFC822.SIZE ENVELOPE)"),
        (
            "FETCH header fields, per message",
            "(UID FLAGS BODY.PEEK[HEADER.FIELDS (FROM TO SUBJECT DATE MESSAGE-ID)])",
        ),
    ):
        client.command(f"FETCH 1:* {items}")  # what a client finds on its second visit
        with server.measured(label, count):
            client.command(f"FETCH 1:* {items}")
    bodies = min(count, int(2_000 * scale))
    for label in ("FETCH BODY[], first time", "FETCH BODY[], again"):
        with server.measured(label, bodies):
            client.command(f"FETCH 1:{bodies} (BODY.PEEK[])")
    with server.measured("STORE, whole mailbox, per message", count):
        client.command("STORE 1:* +FLAGS.SILENT (\\Flagged)")
    singles = int(1_000 * scale)
    with server.measured("STORE, one at a time", singles):
        for n in range(singles):
            client.command(f"STORE {n + 1} +FLAGS (\\Seen)")
    with server.measured("NOOP round trip", int(5_000 * scale)):
        for _ in range(int(5_000 * scale)):
            client.command("NOOP")
    client.command("CREATE Big")
    for _ in range(10):
        client.command("COPY 1:* Big")
    client.command("UNSELECT")
    with server.measured(f"SELECT of {10 * count:,} messages, first", 1):
        client.command("SELECT Big")
    client.command("UNSELECT")
    with server.measured(f"SELECT of {10 * count:,} messages, again", 10):
        for _ in range(10):
            client.command("SELECT Big")
            client.command("UNSELECT")
    client.close()


def pop3_drain(server: Server, scale: float) -> None:
    user = next(server.users)
    count = int(2_000 * scale)
    fill(server, user, count)
    client = Pop3(server.pop3)
    client.command(f"USER {user}")
    client.command(f"PASS {server.password}")
    with server.measured("POP3 RETR and DELE, QUIT included", count):
        for n in range(count):
            client.command(f"RETR {n + 1}")
            client.body()
            client.command(f"DELE {n + 1}")
        client.command("QUIT")
    client.close()


def idle_memory(server: Server, scale: float) -> None:
    """PSS growth by logged-in, idling TLS sessions, all processes of the server together."""
    users = [next(server.users) for _ in range(5)]
    count = int(1_000 * scale)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    warm = [_idling(server, context, users[n % 5]) for n in range(20)]
    before = pss_bytes(server.roots())
    clients = [_idling(server, context, users[n % 5]) for n in range(count)]
    threading.Event().wait(1.0)  # let freed buffers settle
    grown = pss_bytes(server.roots()) - before
    server.notes[f"{count} idle TLS sessions"] = f"{grown / count / 1024:.1f} KiB each"
    print(f"  {server.name:8} idle TLS session: {grown / count / 1024:.1f} KiB", flush=True)
    for client in (*warm, *clients):
        client.close()


def _idling(server: Server, context: ssl.SSLContext, user: str) -> Imap:
    client = Imap(server.imaps, context)
    client.login(user, server.password)
    client.command("SELECT INBOX")
    client.socket.sendall(b"x IDLE\r\n")
    client.line()
    return client


ALL: tuple[Callable[[Server, float], None], ...] = (
    delivery,
    logins,
    mailbox_work,
    pop3_drain,
    idle_memory,
    *crowds.SCENARIOS,
)
