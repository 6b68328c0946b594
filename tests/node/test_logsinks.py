"""Log lines on a disk that is full, moved away or gone: nothing raises, what is lost is counted and told."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from pathlib import Path

import pytest

from node import logsinks
from node.checks import judge_log
from node.health import State
from node.logs import ConsoleFormatter, JsonFormatter
from node.logsinks import DescriptorSink, FileSink, LineHandler, Loss, SyslogSink


class Disk:
    """``os.write`` with room for so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 30
        self._write = os.write
        monkeypatch.setattr(logsinks.os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if descriptor == 2:
            return self._write(descriptor, data)
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._write(descriptor, data[: self.room])
        self.room -= taken
        return taken


class Logged:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.loss = Loss()
        self.complaints: list[str] = []
        self.handler = LineHandler(FileSink(path), self.loss, self.complaints.append)
        self.handler.setFormatter(JsonFormatter())

    def log(self, message: str, *args: object) -> None:
        self.handler.handle(logging.LogRecord("sora.x", logging.INFO, "x.py", 1, message, args, None))

    @property
    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.path.read_text().splitlines()]


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path / "sora.log")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_lines_lost_on_a_full_disk_are_counted_told_once_and_summed_up_later(
    logged: Logged, disk: Disk
) -> None:
    logged.log("before")
    disk.room = 0
    for number in range(5):
        logged.log("lost %d", number)
    assert logged.complaints == ["sora: log lines are being lost: No space left on device\n"]
    finding = judge_log(logged.loss, lost_since=3)
    assert finding.state is State.DEGRADED
    assert finding.detail == "5 log lines were lost: No space left on device"
    disk.room = 1 << 30
    logged.log("after")
    assert logged.messages == ["before", "5 log lines were lost: No space left on device", "after"]
    assert judge_log(logged.loss, lost_since=0).state is State.OK
    assert judge_log(logged.loss, lost_since=2).detail == "2 log lines were lost"  # by another process
    disk.room = 0
    logged.log("lost again")
    assert logged.loss.lines == 6
    assert len(logged.complaints) == 2
    logged.handler.retry()
    assert logged.loss.cause
    disk.room = 1 << 30
    logged.handler.retry()
    logged.handler.retry()
    assert logged.messages[-1] == "1 log lines were lost: No space left on device"
    assert judge_log(logged.loss, lost_since=0).state is State.OK


def test_a_line_that_was_cut_does_not_run_into_the_next(logged: Logged, disk: Disk) -> None:
    disk.room = 30
    logged.log("cut")
    disk.room = 1 << 30
    logged.log("whole")
    cut, told, whole = logged.path.read_text().splitlines()
    assert len(cut) == 30
    assert "1 log lines were lost" in told
    assert json.loads(whole)["message"] == "whole"


def test_a_file_that_was_moved_is_opened_anew(logged: Logged) -> None:
    logged.log("one")
    logged.path.rename(logged.path.with_suffix(".1"))
    logged.log("two")
    assert logged.messages == ["two"]
    logged.path.unlink()
    logged.log("three")
    assert logged.messages == ["three"]
    logged.handler.close()


def test_a_directory_that_is_gone_loses_lines_until_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    logged = Logged(tmp_path / "log" / "sora.log")
    logged.path.unlink()
    (tmp_path / "log").rmdir()
    logged.log("lost")
    assert logged.loss.cause == "No such file or directory"
    (tmp_path / "log").mkdir()
    logged.log("here")
    assert logged.messages[-1] == "here"


def test_several_processes_share_a_file_line_by_line(tmp_path: Path) -> None:
    one, other = Logged(tmp_path / "sora.log"), Logged(tmp_path / "sora.log")
    for number in range(100):
        (one if number % 3 else other).log("line %d %s", number, "x" * 500)
    assert [each.split()[1] for each in one.messages] == [str(number) for number in range(100)]


def test_a_closed_pipe_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    loss = Loss()
    handler = LineHandler(DescriptorSink(writer), loss, lambda _text: None)
    handler.setFormatter(ConsoleFormatter())
    handler.handle(logging.LogRecord("sora.x", logging.INFO, "x.py", 1, "said", (), None))
    assert (loss.lines, loss.cause) == (1, "Broken pipe")
    os.close(writer)


def test_syslog_that_is_away_loses_lines_and_gets_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "log")
    monkeypatch.setattr(logsinks, "SYSLOG", address)
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon.bind(address)
    loss = Loss()
    handler = LineHandler(SyslogSink(), loss, lambda _text: None)
    handler.setFormatter(logging.Formatter("%(message)s"))

    def log(message: str) -> None:
        handler.handle(logging.LogRecord("sora.x", logging.INFO, "x.py", 1, message, (), None))

    log("one")
    assert daemon.recv(1000).endswith(b">one\0")
    daemon.close()
    os.unlink(address)
    log("lost")
    assert loss.lines == 1
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon.bind(address)
    log("two")
    assert b"1 log lines were lost" in daemon.recv(1000)
    assert daemon.recv(1000).endswith(b">two\0")
    daemon.close()
    handler.close()


def test_arguments_that_do_not_fit_lose_nothing_else(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    logged.log("%d", "not a number")
    logged.log("next")
    assert logged.messages == ["next"]
    assert "not a number" in capsys.readouterr().err
    assert logged.loss.lines == 0
