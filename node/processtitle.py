"""What ``ps`` shows of a process that was forked, and so would have its parent's arguments."""

from __future__ import annotations

import ctypes
from pathlib import Path

# proc(5), /proc/PID/stat: arg_start and arg_end are fields 48 and 49; the third is the first behind the name
_ARG_START, _ARG_END = 48 - 3, 49 - 3


def set_title(title: str) -> None:
    """Write it over the arguments this process was started with, cut to their length."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    room = end - start
    if room > 1:  # both are 0 where the kernel keeps them to itself
        ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)
