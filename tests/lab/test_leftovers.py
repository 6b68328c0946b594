"""A lab whose run was killed is cleared away by the next one, and no lab that somebody still uses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from . import leftovers, namespaces
from .lab import ADDRESSES, ROOT, Lab

# The servers of a lab run, the nodes would add nothing but time.
OWNER = """
import sys
from tests.lab.lab import Lab
lab = Lab()
lab.up()
print(lab.namespace(""), lab.directory, *(process.pid for process in lab.processes.values()), flush=True)
sys.stdin.read()
"""


def namespaces_of(stem: str) -> set[str]:
    return {each.name.removeprefix(stem) for each in namespaces.NAMESPACES.glob(f"{stem}*")}


def is_running(pid: int) -> bool:
    return leftovers._started(pid) is not None


def test_what_a_killed_run_left_is_ended_and_removed_by_the_next() -> None:
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        stem, directory, *pids = owner.stdout.readline().split()
        assert namespaces_of(stem) == set(ADDRESSES)
        leftovers.clear()
        assert namespaces_of(stem) == set(ADDRESSES), "it is in use"
        assert Path(directory).exists()
        owner.kill()
        owner.wait()
    leftovers.clear()  # or a lab beside us was faster
    assert namespaces_of(stem) == set()
    assert not Path(directory).exists()
    assert not any(is_running(int(pid)) for pid in pids)


def test_a_pid_that_came_again_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours, theirs = (
        tmp_path / f"{leftovers.PREFIX}{each}" for each in (leftovers.tag(), f"{os.getpid()}-1-00000000")
    )
    for each in (ours, theirs):
        each.mkdir()
    (tmp_path / f"{leftovers.PREFIX}something-else").mkdir()
    leftovers.clear()
    assert not theirs.exists()
    assert ours.exists()
    assert (tmp_path / f"{leftovers.PREFIX}something-else").exists()


def test_each_lab_clears_before_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking := namespaces.missing():
        pytest.skip(lacking)

    class Cleared(Exception):
        pass

    def clear() -> list[str]:
        raise Cleared

    monkeypatch.setattr(leftovers, "clear", clear)
    lab = Lab()
    with pytest.raises(Cleared):
        lab.up()
    assert namespaces_of(lab.namespace("")) == set()
    lab.down()
