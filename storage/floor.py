"""A reserve on a disk: new bodies are refused before it is touched, so that nothing else on that disk fails.

A full disk stops more than mail: PostgreSQL ends, logs are lost, and a purge that would make room needs some.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import StagingFull

SMALL_DISK_SHARE = 20  # the reserve is never more than this part of the disk


class DiskFloor:
    """Of the disk that ``path`` is on. ``min_free_bytes`` 0: no reserve."""

    def __init__(
        self, path: Path, min_free_bytes: int, look: Callable[[Path], os.statvfs_result] = os.statvfs
    ) -> None:
        self.path = path
        self.min_free_bytes = min_free_bytes
        self.refused = 0
        self._look = look

    def admit(self, size_bytes: int) -> None:
        """Asks the kernel, which takes 2 us. Raises StagingFull.

        A disk that cannot be looked at is not judged: whoever writes there will be told.
        """
        if not self.min_free_bytes:
            return
        try:
            found = self._look(self.path)
        except OSError:
            return
        free = found.f_bavail * found.f_frsize - size_bytes
        floor = min(self.min_free_bytes, found.f_blocks * found.f_frsize // SMALL_DISK_SHARE)
        if free < floor:
            self.refused += 1
            raise StagingFull(
                f"the disk of {self.path} has {free + size_bytes} bytes left, and {floor} are kept free"
            )
