"""A node that root starts and that becomes somebody else before it serves: real processes, real rights."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.livenode import client_context, deliver, imap, imap_inbox, message, stored
from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.waiting import seconds_until
from tls.selfsigned import self_signed

ACCOUNT = "mail"  # in Debian's base system, and nobody's here
DEBIAN_PYTHON = "/usr/bin/python3"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: needs root, to give it up")


def account() -> pwd.struct_passwd:
    return pwd.getpwnam(ACCOUNT)


def as_account(*command: str, **environment: str) -> bool:
    """Whether the account can run it."""
    entry = account()
    done = subprocess.run(
        command,
        cwd="/",
        env={**os.environ, **environment},
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


def interpreter() -> tuple[str, dict[str, str]]:
    """One that the account may run, with our packages; workers are started after the change."""
    test = ("-c", f"import asyncpg, os; assert os.access({str(ROOT / 'node')!r}, os.R_OK)")
    try:
        if as_account(sys.executable, *test):
            return sys.executable, {}
    except PermissionError:
        pass  # it lies in somebody's home directory
    packages = {"PYTHONPATH": sysconfig.get_path("purelib")}
    if not Path(DEBIAN_PYTHON).exists() or not as_account(DEBIAN_PYTHON, *test, **packages):
        pytest.skip(f"no Python that the account {ACCOUNT!r} may run has this program's packages")
    return DEBIAN_PYTHON, packages


def free_privileged_port() -> int:
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all privileged ports are taken")


def a_node(workers: int, edit: Callable[[str], str] = str) -> NodeProcess:
    """Not started yet; its secrets are root's alone, what it writes is the account's."""
    python, environment = interpreter()

    def settings(text: str) -> str:
        text = text.replace("workers = 1\n", f'workers = {workers}\nuser = "{ACCOUNT}"\n')
        port = free_privileged_port()
        return edit(re.sub(r'(name = "imap"\naddr = "127\.0\.0\.1:)\d+', rf"\g<1>{port}", text))

    node = NodeProcess(python=(python,), environment=environment).prepare(settings)
    data = node.directory / "data"
    for path in (data, data / "postgres"):
        os.chown(path, account().pw_uid, account().pw_gid)
    return node


def identities(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, value in (line.split(":", 1) for line in lines)}


def pids(node: NodeProcess) -> list[int]:
    """Of the control process, the nursery and its workers, not PostgreSQL's."""
    assert node.process is not None
    return [node.process.pid, *(pid for pid in node.children() if is_ours(pid))]


def is_ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sora-node: ")
    except (FileNotFoundError, ProcessLookupError):  # one of PostgreSQL's, which come and go
        return False


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def node(request: pytest.FixtureRequest) -> Iterator[NodeProcess]:
    with a_node(request.param) as running:
        yield running


def test_every_process_is_the_account_for_good_and_serves(node: NodeProcess) -> None:
    entry = account()
    processes = pids(node)
    assert len(processes) == (4 if "workers = 2" in node.config.read_text() else 1)
    for pid in processes:
        facts = identities(pid)
        assert facts["Uid"] == [str(entry.pw_uid)] * 4
        assert facts["Gid"] == [str(entry.pw_gid)] * 4
        assert set(facts["Groups"]) <= {str(each) for each in os.getgrouplist(ACCOUNT, entry.pw_gid)}
        assert [int(facts[name][0], 16) for name in ("CapPrm", "CapEff", "CapInh")] == [0, 0, 0]
    assert node.port("imap") < 1024
    assert deliver(node, node.address, message(1)).startswith(b"250")
    assert stored(node) == [message(1)]  # over TLS, with a key that only root may read
    assert (node.directory / "data" / "key.pem").stat().st_mode & 0o077 == 0
    assert json.loads(node.admin("status", "--json"))["listeners"]  # root may ask
    control = (node.directory / "data" / "control.sock").stat()
    assert (control.st_uid, control.st_mode & 0o777) == (entry.pw_uid, 0o600)
    assert "config.toml may not be read by" in node.log


def test_a_new_certificate_that_only_root_may_read_is_said_and_not_shown(node: NodeProcess) -> None:
    data = node.directory / "data"
    old = client_context(node)
    cert, key = self_signed(["localhost"], datetime.now(UTC))
    (data / "cert.pem").write_bytes(cert)
    (data / "key.pem").write_bytes(key)
    node.config.chmod(0o644)
    (data / "postgres.password").chmod(0o644)
    said = reload(node)
    assert f'key.pem may not be read by the user "{ACCOUNT}"' in said
    assert f"chgrp {ACCOUNT} {data}/key.pem" in said
    assert handshake(node, old)
    assert not handshake(node, ssl.create_default_context(cafile=str(data / "cert.pem")))
    shutil.chown(data / "key.pem", group=ACCOUNT)
    (data / "key.pem").chmod(0o640)
    assert "may not be read" not in reload(node)
    seconds_until(lambda: handshake(node, ssl.create_default_context(cafile=str(data / "cert.pem"))), 60)
    assert not handshake(node, old)


def test_a_configuration_that_only_root_may_read_is_not_reloaded(
    node: NodeProcess,
) -> None:
    done = ask_to_reload(node)
    assert done.returncode == 2
    assert f'Permission denied for the user "{ACCOUNT}"; let it: chgrp {ACCOUNT} {node.config}' in done.stdout
    node.config.chmod(0o644)
    done = ask_to_reload(node)  # now the secrets that it names
    assert done.returncode == 2
    assert f"chgrp {ACCOUNT} {node.directory}/data/postgres.password" in done.stdout
    assert "Nothing was changed." in done.stdout
    assert deliver(node, node.address, message(1)).startswith(b"250")


METRICS = """
[[servers]]
type = "metrics"
name = "figures"
addr = "127.0.0.1:0"
"""


def test_figures_and_the_service_manager_are_not_lost_with_root() -> None:
    node = a_node(2, lambda text: text + METRICS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = node.directory / "notify"
        manager.bind(str(path))
        path.chmod(0o777)  # as systemd's
        manager.settimeout(60)
        node.environment = {**node.environment, "NOTIFY_SOCKET": str(path)}
        with node:
            assert manager.recv(100) == b"READY=1"
            url = f"http://127.0.0.1:{node.port('figures')}/metrics"
            with urllib.request.urlopen(url, timeout=60) as page:
                text = page.read().decode()
            for process in ("control", "worker-1", "worker-2"):
                assert re.search(rf'sora_process_open_files{{process="{process}"}} [1-9]', text)
        assert manager.recv(100) == b"STOPPING=1"


def reload(node: NodeProcess) -> str:
    done = ask_to_reload(node)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask_to_reload(node: NodeProcess) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", "reload", "--config", str(node.config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def handshake(node: NodeProcess, context: ssl.SSLContext) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", node.port("imaps")), 60) as plain:
            context.wrap_socket(plain, server_hostname="localhost").close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_workers_and_the_process_they_come_from_are_replaced_with_the_key_that_nobody_may_read() -> None:
    with a_node(2) as node:
        first, *others = [pid for pid in pids(node) if node.process and pid != node.process.pid]
        for pid in (first, *others):
            os.kill(pid, signal.SIGKILL)
        seconds_until(lambda: len(pids(node)) == 4 and not {first, *others} & set(pids(node)), 60)
        with imap_inbox(node) as client:
            assert client.imap(b"NOOP")[0].startswith(b"OK")


def test_a_drain_is_taken_back_on_a_port_that_only_root_may_bind(node: NodeProcess) -> None:
    session = imap_inbox(node)
    drain(node, "--within", "1h")
    for name in ("imap", "imaps", "lmtp"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", node.port(name)), 5)
    assert session.imap(b"NOOP")[0].startswith(b"OK")
    drain(node, "--undo")
    assert session.imap(b"NOOP")[0].startswith(b"OK")
    for _ in range(6):
        with imap(node, "imap") as plain:
            assert plain.imap(b"NOOP")[0].startswith(b"OK")
    assert deliver(node, node.address, message(2)).startswith(b"250")
    session.close()


def drain(node: NodeProcess, *arguments: str) -> None:
    command = [sys.executable, "-m", "node", "drain", "--config", str(node.config), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_directories_and_log_file_that_are_missing_are_made_for_the_account() -> None:
    def elsewhere(text: str) -> str:
        data = re.search(r'path = "(.*)/staging"', text)
        assert data is not None
        text = text.replace(f"{data[1]}/staging", f"{data[1]}/deep/er/staging")
        return text + f'\n[logging]\noutput = "{data[1]}/logs/node.log"\n'

    with a_node(2, elsewhere) as node:
        data = node.directory / "data"
        for path in (
            data / "deep" / "er",
            data / "deep" / "er" / "staging",
            data / "objects",
            data / "cache",
        ):
            assert path.stat().st_uid == account().pw_uid, path
        log = data / "logs" / "node.log"
        assert {log.stat().st_uid, log.parent.stat().st_uid} == {account().pw_uid}
        seconds_until(lambda: log.read_text().count("serves, process") == 2, 60)


def test_a_control_socket_that_root_left_is_named_and_mail_goes_on() -> None:
    node = a_node(1)
    left = node.directory / "data" / "control.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(left))
        left.chmod(0o600)
    with node:
        assert f"control socket {left}: Permission denied (its directory" in node.log
        assert deliver(node, node.address, message(1)).startswith(b"250")


def run(node: NodeProcess, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*node.python, "-m", "node", "run", "--config", str(node.directory / "data" / "config.toml")]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command,
        cwd=ROOT,
        env={**os.environ, **node.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def refuse(node: NodeProcess, status: int, *words: str, **options: object) -> None:
    done = run(node, **options)
    shutil.rmtree(node.directory)
    assert done.returncode == status, done.stderr
    for each in words:
        assert each in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_names_are_configuration_errors_with_their_cure() -> None:
    refuse(
        a_node(1, lambda text: text.replace(f'user = "{ACCOUNT}"', 'user = "norbody"')),
        2,
        "user: ",
        "useradd",
    )
    named = f'user = "{ACCOUNT}"'
    for written, words in (
        ('user = "norbody"', ("user: ", "useradd")),
        (f'{named}\ngroup = "norgroup"', ("group: ", "groupadd")),
        (f'group = "{ACCOUNT}"', ("user", "required by group")),
    ):
        node = a_node(1, lambda text, written=written: text.replace(named, written))  # type: ignore[misc]
        refuse(node, 2, *words)


def test_a_directory_of_somebody_else_is_named_with_its_cure() -> None:
    node = a_node(2)
    staging = node.directory / "data" / "staging" / "feed"
    staging.mkdir(parents=True)
    refuse(node, 2, "uploader.path", f"chown -R {ACCOUNT}:{ACCOUNT} {staging.parent}")


def test_nobody_but_root_can_become_somebody_else() -> None:
    node = a_node(1)
    somebody = pwd.getpwnam("games")
    for path in (node.directory / "data").rglob("*"):
        os.chown(path, somebody.pw_uid, somebody.pw_gid)
    options = {"user": somebody.pw_uid, "group": somebody.pw_gid, "extra_groups": []}
    refuse(node, 2, "user: ", 'started by the user "games"', "start it as root", **options)


def test_root_without_user_is_warned_of_once_and_the_same_user_is_fine() -> None:
    with NodeProcess() as node:
        assert node.log.count("the node runs as root") == 1
    with a_node(1, lambda text: text.replace(f'user = "{ACCOUNT}"', 'user = "root"')) as node:
        assert "runs as root" not in node.log
