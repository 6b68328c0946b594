"""``make bench``: figures of a durable node on this machine, beside Dovecot where it is installed.

Rates share the machine with the load generator, and with whatever else runs; compare the ratios and the
CPU time per operation, which is that of the server's whole process tree, PostgreSQL included.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from pathlib import Path

from tests.interop.conftest import PASSWORD, SECRET_HASH
from tests.support.dovecot import PASSWORD as DOVECOT_PASSWORD
from tests.support.dovecot import Dovecot, is_installed
from tests.support.nodeprocess import NodeProcess, public_directory

from . import crowds, frontdoor, relay, scenarios
from .measure import Server, table

FRONTDOOR, RELAY = "frontdoor", "relay"


def sora(node: NodeProcess) -> Server:
    def accounts() -> object:
        for n in itertools.count(1):
            address = f"bench{n}@bench.example.test"
            node.admin("accounts", "create", address, "--password-hash", SECRET_HASH)
            yield address

    assert node.process is not None
    pid = node.process.pid
    return Server(
        "Sora",
        lambda: [pid],
        node.port("imap"),
        node.port("imaps"),
        node.port("pop3"),
        node.port("lmtp"),
        PASSWORD,
        accounts(),  # type: ignore[arg-type]
    )


def dovecot(running: Dovecot) -> Server:
    users = (f"bench{n}@bench.example.test" for n in itertools.count(1))
    pid = running.process.pid
    ports = (running.imap, running.imaps, running.pop3, running.lmtp)
    return Server("Dovecot", lambda: [pid], *ports, DOVECOT_PASSWORD, users)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual amounts, e.g. 0.1")
    names = [*(each.__name__ for each in scenarios.ALL), FRONTDOOR, RELAY]
    parser.add_argument("--only", choices=names, action="append")
    parser.add_argument("--without-dovecot", action="store_true")
    wanted = parser.parse_args()
    chosen = [each for each in scenarios.ALL if not wanted.only or each.__name__ in wanted.only]
    if not wanted.only or FRONTDOOR in wanted.only:
        frontdoor.report(wanted.scale)
    if not wanted.only or RELAY in wanted.only:
        relay.report(wanted.scale)
    if not chosen:
        return
    directory = public_directory("sora-bench-")
    with NodeProcess() as node:
        servers = [sora(node)]
        running = None
        try:
            if is_installed() and not wanted.without_dovecot:
                running = Dovecot.start(directory, node.certificate, Path(node.ready["key"]))
                servers.append(dovecot(running))
            for scenario in chosen:
                print(scenario.__name__, flush=True)
                # thousands of idlers are as many processes of Dovecot: they would measure the machine
                for server in servers[:1] if scenario in crowds.SCENARIOS else servers:
                    scenario(server, wanted.scale)
        finally:
            if running is not None:
                running.stop()
            shutil.rmtree(directory, ignore_errors=True)
    print("\n" + table(servers))


if __name__ == "__main__":
    main()
