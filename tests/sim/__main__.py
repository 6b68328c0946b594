"""``python -m tests.sim``: repeats a run, looks for seeds that fail, or prints the figures of scale."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from .run import simulate
from .scenarios import SCENARIOS


def seeds(text: str) -> range:
    """``7`` or ``1-200``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), action="append", help="default: all")
    parser.add_argument("--seed", "--seeds", type=seeds, default=seeds("1"), help="one, or a range: 1-200")
    parser.add_argument("--nodes", type=int, default=0, help="default: as many as the scenario likes")
    parser.add_argument("--real-cipher", action="store_true", help="AES as on the wire, more slowly")
    parser.add_argument(
        "--figures", action="store_true", help="tabulate scale instead, see tests/sim/figures.py"
    )
    wanted = parser.parse_args()
    if wanted.figures:
        from . import figures

        figures.report()
        return 0
    logging.getLogger("sora").setLevel(logging.ERROR)  # what nodes tell of blocks, a hundred times a seed
    bad = 0
    for seed in wanted.seed:
        for name in wanted.scenario or SCENARIOS:
            begin = time.perf_counter()
            outcome = simulate(name, seed, wanted.nodes, real_cipher=wanted.real_cipher)
            took = time.perf_counter() - begin
            word = "FAILED" if outcome.error else "ok"
            print(
                f"{word:6} {name:14} seed {seed} nodes {outcome.nodes} trace {outcome.trace:08x} "
                f"{outcome.steps} steps {took:.1f} s",
                flush=True,
            )
            if outcome.error:
                bad += 1
                print(f"  {outcome.error}\n  repeat: {outcome.command}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
