"""Headers of a million octets against tests made to take long, and 10,000 rules compiled.

``python -m tests.bench.sievelimits``: CPU milliseconds, best of three; ends with 1 when a figure misses its
aim. A script that is given up because of its steps or its time counts with the time until then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from protocols.sieve.compiling import compile
from tests.protocols.sieve.running import run
from tests.protocols.sieve.test_speed import RULE
from tests.support.hostileheaders import HEADERS, REQUIRE, TESTS

AIM_S = 1.0


def best_of_three(work: Callable[[], object]) -> float:
    found = []
    for _ in range(3):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def one(test: str, header: bytes) -> object:
    return run(f"{REQUIRE}if {test} {{ discard; }}", message=header + b"\r\n")


def main() -> int:
    worst = 0.0
    for name, header in HEADERS.items():
        figures = {test: best_of_three(lambda test=test: one(test, header)) for test in TESTS}  # type: ignore[misc]  # noqa: B023
        slowest = max(figures, key=lambda test: figures[test])
        print(f"{name:14} at most {figures[slowest] * 1e3:5.0f} ms: {slowest[:60]}", flush=True)
        worst = max(worst, figures[slowest])
    rules = ('require "fileinto";\n' + "".join(RULE.format(n=n) for n in range(10_000))).encode()
    compiled_s = best_of_three(lambda: compile(rules))
    print(f"10,000 rules compile in {compiled_s * 1e3:.0f} ms")
    return int(max(worst, compiled_s) >= AIM_S)


if __name__ == "__main__":
    sys.exit(main())
