"""What a lab leaves behind whose run was killed: network namespaces, the processes in them, a directory.

The tag in their names tells the process that made them, by pid and by when it started, as pids come again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import namespaces

PREFIX = "sora-lab-"
ENDED_WITHIN_S = 30.0
_TAGGED = re.compile(rf"{PREFIX}(?P<pid>[0-9]+)-(?P<started>[0-9]+)-[0-9a-f]{{8}}(-.+)?")


def tag() -> str:
    """Another one each time: a process may have several labs."""
    return f"{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"


def clear() -> list[str]:
    """End and remove what labs of processes that are gone have left; the names of their namespaces."""
    found = [each.name for each in namespaces.NAMESPACES.glob(f"{PREFIX}*") if _is_left(each.name)]
    for name in found:
        _end_all(name)
        namespaces.remove(name)
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_left(directory.name):
            shutil.rmtree(directory, ignore_errors=True)
    return sorted(found)


def _is_left(name: str) -> bool:
    made = _TAGGED.fullmatch(name)
    return made is not None and _started(int(made["pid"])) != int(made["started"])


def _started(pid: int) -> int | None:
    """Ticks after boot; None: there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _end_all(name: str) -> None:
    """Again and again, as a server may start another child meanwhile."""
    deadline = time.monotonic() + ENDED_WITHIN_S
    while pids := _pids(name):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {pids} in {name} do not end")
        time.sleep(0.05)


def _pids(name: str) -> list[int]:
    """Of what is alive in there. Another lab may be clearing the same."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [pid for pid in map(int, listed.stdout.split()) if _started(pid) is not None]
