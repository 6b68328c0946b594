"""``sora-node`` and ``sora-admin`` run to their end, without an interpreter that starts and imports for each.

A process that has imported them once is forked for every call, so a call has arguments, environment,
descriptors and exit status of its own as any other program, and costs hundredths of a second, not a half one.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"node": "node.__main__", "node.admin": "node.admin"}
ENDS_WITHIN_S = 300.0

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload([*PROGRAMS.values(), "node.cli", __name__])


def run(module: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """``python -m MODULE ARGUMENTS``, with nothing to read. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="sora-command-") as directory:
        said = [Path(directory) / name for name in ("stdout", "stderr")]
        program = _fork.Process(target=_become, args=(module, arguments, dict(os.environ), said))
        program.start()
        program.join(ENDS_WITHIN_S)
        if program.exitcode is None:
            program.kill()
            program.join()
            raise subprocess.TimeoutExpired([module, *arguments], ENDS_WITHIN_S)
        status = program.exitcode
        program.close()
        texts = [path.read_text() for path in said]
    return subprocess.CompletedProcess([module, *arguments], status, *texts)


def _become(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], said: Sequence[Path]
) -> None:
    """In the new process: the program, in the directory of the project."""
    for descriptor, path in enumerate(said, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    importlib.import_module(PROGRAMS[module]).main()
