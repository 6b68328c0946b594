"""Delivery with and without a script of 50 rules: ``python -m tests.bench.sieve``.

Messages in turn for recipients without a script, for those with one whose rules do not hold, and for those
whose script has one more rule, which files them: a round of each, so that what else the machine does falls on
all. The node has one process. CPU is that of its threads, in microseconds a message: the uploads of what was
delivered before are in it, wherever they fall.
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


NONE, IDLE, FILING = "without", "50 rules", "51, one files"
FILES = 'if address :is "to" "user@example.test" { fileinto "Archive"; }\n'
SCRIPTS = {NONE: "", IDLE: fifty_rules(), FILING: fifty_rules() + FILES}


def put(node: NodeProcess, recipient: str, script: str) -> None:
    command = [sys.executable, "-m", "node.admin", "--config", str(node.config), "sieve", "put"]
    subprocess.run(
        [*command, recipient, "fifty"],
        cwd=ROOT,
        input=script.encode(),
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
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in SCRIPTS}
    with NodeProcess() as node:
        recipients = {
            name: [f"sieve{each}x{n}@bench.example.test" for n in range(CONNECTIONS)]
            for each, name in enumerate(SCRIPTS)
        }
        for name, script in SCRIPTS.items():
            for recipient in recipients[name]:
                node.admin("accounts", "create", recipient, "--password-hash", SECRET_HASH)
                if script:
                    put(node, recipient, script)
        for number in range(ROUNDS):
            turns = list(enumerate(SCRIPTS))
            for each, name in turns if number % 2 else reversed(turns):
                seed = (number * len(turns) + each) * 50_000
                figures[name].append(one_round(node, recipients[name], seed))
    for name, found in figures.items():
        rates, costs = zip(*found[1:], strict=True)  # the first round fills caches
        line = f"{name:13} {median(rates):6.0f}/s, {median(costs):5.0f} us CPU a message"
        if name != NONE:
            pairs = list(zip(figures[NONE][1:], found[1:], strict=True))
            rate = median(before / after for (before, _), (after, _) in pairs) - 1
            cpu = median(after / before for (_, before), (_, after) in pairs) - 1
            line += f": {cpu:+.1%} CPU, {rate:+.1%} time (medians of {len(pairs)} pairs of rounds)"
        print(line, flush=True)


if __name__ == "__main__":
    main()
