"""Figures of this process from /proc."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from .registry import Reading

_PAGE_BYTES = resource.getpagesize()


class ProcessFigures:
    """A source; made at the start of the process."""

    def __init__(self) -> None:
        self._started_at = time.time()

    def __call__(self) -> Iterator[Reading]:
        times = os.times()
        yield "sora_process_start_timestamp_seconds", (), self._started_at
        yield "sora_process_cpu_seconds_total", (), times.user + times.system
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield "sora_process_resident_bytes", (), pages * _PAGE_BYTES
        yield "sora_process_open_files", (), len(os.listdir("/proc/self/fd")) - 1  # that of the listing
