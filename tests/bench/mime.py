"""CPU time of the MIME scanner: ``python -m tests.bench.mime``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from storage.mime.envelope import decode_envelope, encode_envelope, parse_envelope
from storage.mime.headers import cut_fields, split_header
from storage.mime.message import describe
from storage.mime.structure import decode_structure, encode_structure, scan
from tests.support.messages import corpus

ROUNDS = 5


def measure(name: str, work: Callable[[bytes], object], inputs: list[bytes]) -> None:
    """Prints the best of ROUNDS passes."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for data in inputs:
            work(data)
        best = min(best, time.process_time() - started)
    print(f"{name:28} {best / len(inputs) * 1e6:8.1f} us/message {len(inputs) / best:10,.0f} /core-second")


def run(count: int = 2000) -> None:
    messages = [built.data for built in corpus(7, count)]
    sizes = [len(data) for data in messages]
    print(
        f"{count} messages, mean {statistics.mean(sizes):,.0f} bytes, median {statistics.median(sizes):,.0f}"
    )
    headers = [data[: split_header(data)] for data in messages]
    measure("scan", scan, messages)
    measure("parse_envelope", parse_envelope, headers)
    measure("describe (all, with hash)", describe, messages)
    measure("decode_structure", decode_structure, [encode_structure(scan(data)) for data in messages])
    measure("decode_envelope", decode_envelope, [encode_envelope(parse_envelope(h)) for h in headers])
    names = (b"from", b"subject", b"date", b"message-id")
    measure("cut_fields, four names", lambda header: cut_fields(header, names, inverted=False), headers)


if __name__ == "__main__":
    run()
