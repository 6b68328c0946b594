"""``python -m tests.bench.ratelimit``: memory and time of the limiter with a million addresses.

No sockets, no hashing: what a login costs before and after its password check.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

from node.ratelimit import Address, Capacity, Limiter, Rules, parse_address

RULES = Rules()
START = 1_000_000.0
PAGE_KB = 4


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB / 1024


def per_call_us(times: int, action: Callable[[int], object]) -> float:
    began = time.process_time()
    for n in range(times):
        action(n)
    return (time.process_time() - began) / times * 1e6


def filled(addresses: int) -> Limiter:
    """Each address has failed once, for its own user: half of them IPv6."""
    limiter = Limiter(secret=bytes(16), node="bench", capacity=Capacity(100_000, addresses, 50_000))
    for n in range(addresses):
        address = Address(0x20010DB8 << 96 | n << 64, True) if n % 2 else Address(0x0A000000 + n, False)
        attempt = limiter.attempt(RULES, address, f"user{n % 70_000}@example.org", b"%d" % n)
        limiter.failed(RULES, attempt, START + n / 1000)
    return limiter


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ratelimit", description=__doc__)
    parser.add_argument("--addresses", type=int, default=1_000_000)
    wanted = parser.parse_args()
    gc.collect()
    before = resident_mb()
    began = time.process_time()
    limiter = filled(wanted.addresses)
    filling = (time.process_time() - began) / wanted.addresses * 1e6
    print(f"{wanted.addresses:,} addresses, records {limiter.sizes}")
    print(f"memory               {resident_mb() - before:8.0f} MB (aim: 300 for a million)")
    now = START + wanted.addresses / 1000
    ips = [f"10.0.{n >> 8 & 255}.{n & 255}" for n in range(0, 20_000, 2)]
    parsed = [Address(0x0A000000 + 2 * n, False) for n in range(10_000)]
    attempts = [limiter.attempt(RULES, each, "ann@example.org", b"guess") for each in parsed]
    figures = {
        "record a failure": filling,
        "read an address": per_call_us(10_000, lambda n: parse_address(ips[n])),
        "make an attempt": per_call_us(
            10_000, lambda n: limiter.attempt(RULES, parsed[n], "ann@example.org", b"guess")
        ),
        "check (aim: 10)": per_call_us(10_000, lambda n: limiter.judge(RULES, attempts[n], now)),
        "check at accept": per_call_us(10_000, lambda n: limiter.refuses(RULES, parsed[n], now)),
    }
    for name, figure in figures.items():
        print(f"{name:20} {figure:8.2f} us CPU")
    began = time.process_time()
    limiter.sweep(now + 40 * 86_400)
    print(f"{'one step of a sweep':20} {(time.process_time() - began) * 1000:8.2f} ms CPU")


if __name__ == "__main__":
    main()
