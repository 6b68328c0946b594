"""Delivery with and without a script of 50 rules: ``python -m tests.bench.sieve``.

The same recipients and messages in turn, a round with the script and one without, so that what else the
machine does falls on both; the node has one process. CPU is that of its threads, in microseconds a message:
the uploads of what was delivered before are in it, wherever they fall.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from tests.interop.conftest import SECRET_HASH
from tests.support.nodeprocess import ROOT, NodeProcess

from .clients import deliver_at_once
from .measure import threads_cpu_s
from .processes import serving
from .scenarios import SMALL, sized

CONNECTIONS = 8
MAILS = 20  # a connection and round
ROUNDS = 31

RULES = (
    'if header :contains "list-id" "list{n}.example.org" {{ fileinto "Archive"; stop; }}\n',
    'if address :is "from" "sender{n}@example.net" {{ fileinto "Archive"; stop; }}\n',
    'if header :contains ["subject", "x-project"] ["project {n}", "[p{n}]"] {{ addflag "p{n}"; }}\n',
    'if anyof (header "x-tag" "t{n}", address :domain ["to", "cc"] "d{n}.example") {{ discard; stop; }}\n',
    'if header :matches "subject" "*ticket #{n}?:*" {{ fileinto "Archive"; stop; }}\n',
)


def fifty_rules() -> str:
    rules = (RULES[n % len(RULES)].format(n=n) for n in range(50))
    return 'require ["fileinto", "imap4flags"];\n' + "".join(rules)


def put(node: NodeProcess, recipient: str) -> None:
    command = [sys.executable, "-m", "node.admin", "--config", str(node.config), "sieve", "put"]
    subprocess.run(
        [*command, recipient, "fifty"],
        cwd=ROOT,
        input=fifty_rules().encode(),
        check=True,
        capture_output=True,
    )
    node.admin("sieve", "activate", recipient, "fifty")


def one_round(node: NodeProcess, recipients: list[str], seed: int) -> tuple[float, float]:
    """Messages a second, and microseconds of CPU a message."""
    mails = [[sized(seed + n * MAILS + k, SMALL) for k in range(MAILS)] for n in range(CONNECTIONS)]
    (pid,) = serving(node)
    before, started = threads_cpu_s(pid), time.perf_counter()
    deliver_at_once(node.port("lmtp"), recipients, mails)
    wall_s = time.perf_counter() - started
    total = CONNECTIONS * MAILS
    return total / wall_s, (threads_cpu_s(pid) - before) / total * 1e6


def main() -> None:
    with NodeProcess() as node:
        plain = [f"plain{n}@bench.example.test" for n in range(CONNECTIONS)]
        ruled = [f"ruled{n}@bench.example.test" for n in range(CONNECTIONS)]
        for recipient in (*plain, *ruled):
            node.admin("accounts", "create", recipient, "--password-hash", SECRET_HASH)
        for recipient in ruled:
            put(node, recipient)
        figures: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for number in range(ROUNDS):
            turns = [("without", plain, 0), ("with", ruled, 50_000)]
            for name, recipients, seed in turns if number % 2 else reversed(turns):
                figures[name].append(one_round(node, recipients, number * 100_000 + seed))
    for name, found in figures.items():
        rates, costs = zip(*found[1:], strict=True)  # the first round fills caches
        print(f"{name:8} {median(rates):6.0f}/s, {median(costs):5.0f} us CPU a message", flush=True)
    pairs = list(zip(figures["without"][1:], figures["with"][1:], strict=True))
    rate = median(before / after for (before, _), (after, _) in pairs) - 1
    cpu = median(after / before for (_, before), (_, after) in pairs) - 1
    print(f"50 rules cost {cpu:.1%} CPU, {rate:.1%} time (medians of {len(pairs)} pairs of rounds)")


if __name__ == "__main__":
    main()
