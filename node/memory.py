"""What the C library does with the memory we ask for."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # mallopt(3)
LARGE_BYTES = 256 * 1024


def keep_large_buffers_apart() -> bool:
    """Give every buffer of 256 KiB and more pages of its own, for the life of the process; whether that
    could be set. Only glibc has it, and needs it.

    uvloop has such a buffer for each TLS connection and rarely writes to more than its beginning; the rest
    takes no memory as long as its pages are its own. glibc starts like that, but moves them to the heap
    once it has seen a larger one freed: then an idle connection takes 46 KiB instead of 24.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))
