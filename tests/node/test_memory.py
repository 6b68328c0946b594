"""Large buffers stay off the heap, in a process of its own since it is set for good."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from node.memory import LARGE_BYTES, keep_large_buffers_apart

def heap_kib():
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith("[heap]"):
            start, end = line.split()[0].split("-")
            return (int(end, 16) - int(start, 16)) // 1024

if sys.argv[1] == "apart":
    assert keep_large_buffers_apart()
large = bytearray(4 * LARGE_BYTES)
del large  # from now on glibc by itself would put these on the heap
before = heap_kib()
buffers = [bytearray(LARGE_BYTES) for _ in range(40)]
print(heap_kib() - before)
"""


def grown_kib(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_large_buffers_are_kept_off_the_heap() -> None:
    assert grown_kib("as it is") > 8_000
    assert grown_kib("apart") < 1_000
