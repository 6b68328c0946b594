"""What a connection costs before its first command: ``python -m tests.bench.frontdoor``.

Our way in, with and without PROXY header and JA4, beside a plain ``asyncio.start_server`` on the same loop.
The server is a process of its own; its CPU time divided by the connections is the figure, as the rate shares
the machine with the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import uvloop

from node.config import Config, Server
from node.frontdoor import DoorSettings
from node.linkports import LinkSessions
from node.listeners import Arrive, Listener, not_counted
from node.sessions import SessionLimits
from node.units import Address
from protocols import haproxy
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from tests.support.echo import Sessions
from tests.support.nodeprocess import ROOT, public_directory
from tls.contexts import FileCertificate
from tls.ports import Generation
from tls.selfsigned import self_signed
from tls.serving import Policy, Served, build_table, read_generation
from tls.sources import CertificateSource

from .measure import cpu_s

CLIENTS = 4
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
TRUSTED = (ipaddress.ip_network("127.0.0.0/8"),)
HEADER = haproxy.encode_v2(haproxy.Endpoint("192.0.2.7", 49152), haproxy.Endpoint("192.0.2.1", 993))
# name to: TLS, PROXY header, settings of our front door (None: start_server)
VARIANTS: dict[str, tuple[bool, bool, DoorSettings | None]] = {
    "plain, start_server": (False, False, None),
    "plain": (False, False, DoorSettings()),
    "plain, limits of a worker": (False, False, DoorSettings()),
    "plain, PROXY": (False, True, DoorSettings(TRUSTED)),
    "TLS, start_server": (True, False, None),
    "TLS": (True, False, DoorSettings(looks_at_hellos=False)),
    "TLS, JA4": (True, False, DoorSettings()),
    "TLS, JA4, one of 10,000 names": (True, False, DoorSettings()),
    "TLS, PROXY": (True, True, DoorSettings(TRUSTED, looks_at_hellos=False)),
    "TLS, PROXY, JA4": (True, True, DoorSettings(TRUSTED)),
}


class Forgetful(Sessions):
    """Sessions that nobody wants to look at afterwards."""

    def __call__(self, connection: object) -> object:  # type: ignore[override]
        made = super().__call__(connection)  # type: ignore[arg-type]
        self.made.clear()
        return made


class Unheard:
    """The link of a worker that tells and never has to ask."""

    def notify(self, *_notice: object) -> None: ...


def places() -> Arrive:
    """Places for connections as a worker counts them, far from the limits."""
    sessions = LinkSessions(Unheard(), Config(), 2)  # type: ignore[arg-type]
    sessions.budgets.begin()
    sessions.limit("bench", SessionLimits(total=100_000, per_address=100_000, per_user=50))
    return partial(sessions.arrive, "bench")


async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\n")
    await _reader.read(1)
    writer.close()


def many_names(directory: Path) -> CertificateSource:
    """A table of 10,000 certificates, of which the clients ask for one."""
    now = datetime.now(UTC)
    chain, key = ((directory / name).read_bytes() for name in ("cert.pem", "key.pem"))
    held = read_generation(Generation("bench", 1, chain, key, "", now))
    others = [replace(held, bundle=replace(held.bundle, names=(f"m{n}.example",))) for n in range(9_999)]
    served = Served(Policy(), now=lambda: now)
    served.table = build_table([held, *others], now)
    return served.view()


async def serve(variant: str, directory: Path) -> None:
    tls, _, door = VARIANTS[variant]
    certificate = FileCertificate(
        directory / "cert.pem", directory / "key.pem", now=lambda: datetime.now(UTC)
    )
    if door is None:
        context = certificate.context if tls else None
        server = await asyncio.start_server(greet, "127.0.0.1", 0, backlog=1024, ssl=context)
        port = server.sockets[0].getsockname()[1]
    else:
        live = LiveConnections(DeadlineWheel(asyncio.get_running_loop()))
        wanted = Server(type="imap", name="bench", addr=Address("127.0.0.1", 0), tls=tls)
        source = many_names(directory) if "names" in variant else certificate
        arrive = places() if "limits" in variant else not_counted
        listener = Listener(wanted, Forgetful(), live, source, door, arrive=arrive)  # type: ignore[arg-type]
        await listener.open()
        port = listener.address.rpartition(":")[2]
    print(port, flush=True)
    await asyncio.Event().wait()


def connect(port: int, context: ssl.SSLContext | None, header: bytes) -> None:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock:
        if header:
            sock.sendall(header)
        if context is None:
            assert sock.recv(100) == b"hello\n"
            return
        with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
            assert wrapped.recv(100) == b"hello\n"


@contextmanager
def server(variant: str, loop: str, directory: Path) -> Iterator[tuple[int, int]]:
    """Its pid and port."""
    command = [sys.executable, "-m", "tests.bench.frontdoor", "--serve", variant, loop, str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(variant: str, loop: str, directory: Path, count: int) -> tuple[float, float]:
    """Connections a second, and CPU microseconds of the server for each."""
    tls, proxied, _ = VARIANTS[variant]
    context = ssl.create_default_context(cafile=str(directory / "cert.pem")) if tls else None
    header = HEADER if proxied else b""
    with server(variant, loop, directory) as (pid, port), ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: connect(port, context, header), range(100)))  # warm
        cpu, began = cpu_s([pid]), time.perf_counter()
        list(pool.map(lambda _: connect(port, context, header), range(count)))
        return count / (time.perf_counter() - began), (cpu_s([pid]) - cpu) / count * 1e6


def report(scale: float = 1.0) -> None:
    directory = public_directory("sora-frontdoor-")
    try:
        cert, key = self_signed(["localhost"], datetime.now(UTC))
        (directory / "cert.pem").write_bytes(cert)
        (directory / "key.pem").write_bytes(key)
        (directory / "key.pem").chmod(0o600)
        print("| connection | loop | /s | CPU us |\n|---|---|---|---|")
        for loop in LOOPS:
            for variant in VARIANTS:
                rate, cpu_us = measure(variant, loop, directory, max(200, int(4000 * scale)))
                print(f"| {variant} | {loop} | {rate:,.0f} | {cpu_us:,.0f} |", flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.frontdoor", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual amounts, e.g. 0.1")
    parser.add_argument("--serve", nargs=3, metavar=("VARIANT", "LOOP", "DIR"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.serve is None:
        report(wanted.scale)
        return
    variant, loop, directory = wanted.serve
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(serve(variant, Path(directory)))


if __name__ == "__main__":
    main()
