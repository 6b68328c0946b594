"""How a node ends: what it says, its exit status, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.livenode import client_context, deliver, message, stored, stored_raw
from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.ports import node_ports
from tests.support.waiting import eventually

DEBIAN_PG = Path("/usr/lib/postgresql/15/bin")
START_WITHIN_S = 300


def sora_node(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to its end, which has to come by itself."""
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_WITHIN_S,
    )


def processes_below(directory: Path) -> list[str]:
    """Command lines of whatever still works in or for a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in command or os.readlink(entry / "cwd").startswith(str(directory)):
                found.append(command)
    return found


def test_placeholders_are_refused_with_status_2(tmp_path: Path) -> None:
    example = (ROOT / "config.toml.example").read_text()
    config = tmp_path / "config.toml"
    config.write_text(example)
    done = sora_node("run", "--config", str(config))
    assert done.returncode == 2
    assert "s3.secret_key" in done.stderr
    assert "still the placeholder of an example" in done.stderr
    assert "Traceback" not in done.stderr
    missing = sora_node("run", "--config", str(tmp_path / "none.toml"))
    assert missing.returncode == 2
    assert "none.toml" in missing.stderr


def test_a_taken_port_is_named_with_its_server_and_nothing_is_left_running() -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        node = NodeProcess()
        node.prepare(
            lambda text: text.replace(
                'name = "pop3"\naddr = "127.0.0.1:', f'name = "pop3"\naddr = "127.0.0.1:{port}"\n# "'
            )
        )
        done = sora_node("run", "--config", str(node.directory / "data" / "config.toml"))
        assert done.returncode == 1, done.stderr
        assert f"server pop3: cannot listen on 127.0.0.1:{port}" in done.stderr
        assert "is another program on that port" in done.stderr
        assert "Traceback" not in done.stderr
        assert processes_below(node.directory) == []
    with node:  # the port is free now
        assert deliver(node, node.address, message(1)).startswith(b"250")


def started_with(patch: pytest.MonkeyPatch, binaries: Path) -> NodeProcess:
    """A node whose environment names PostgreSQL's programs; ours does too until the test ends."""
    patch.setenv("SORA_PG_BIN", str(binaries))
    return NodeProcess()


def test_a_directory_of_another_postgres_major_is_refused_with_the_cure() -> None:
    if not (DEBIAN_PG / "initdb").exists():
        pytest.skip(f"{DEBIAN_PG} is missing (apt-get install postgresql-15)")
    with pytest.MonkeyPatch.context() as patch, started_with(patch, DEBIAN_PG) as node:
        assert deliver(node, node.address, message(1)).startswith(b"250")
        assert node.stop() == 0
        patch.delenv("SORA_PG_BIN")
        done = sora_node("quickstart", "--data-dir", str(node.directory / "data"))
        assert done.returncode == 1
        assert "was made by PostgreSQL 15" in done.stderr
        assert "SORA_PG_BIN" in done.stderr
        assert "pg_upgrade" in done.stderr
        assert "Traceback" not in done.stderr
        again = sora_node("run", "--config", str(node.config), SORA_PG_BIN=str(DEBIAN_PG / "none"))
        assert again.returncode == 1
        assert "no postgres program in" in again.stderr


def was_python(status: int, text: str) -> bool:
    """The interpreter itself was still starting, and does with Ctrl-C as it likes."""
    return (
        status == -signal.SIGINT and text.rstrip().endswith("KeyboardInterrupt") and ", in main" not in text
    )


def test_ctrl_c_at_any_moment_of_the_first_start_leaves_nothing_running() -> None:
    node = NodeProcess()
    command = [sys.executable, "-m", "node", "quickstart", "--ports", node_ports(), "--json"]
    command += ["--data-dir", str(node.directory / "data")]
    for step in itertools.count():
        delay_ms = 150 * 1.5**step
        with (node.directory / "node.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # who tests may ignore it
            )
        try:
            output, _ = process.communicate(timeout=delay_ms / 1000)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
            output, _ = process.communicate(timeout=120)
        text = (node.directory / "node.log").read_text()
        was_ready = b'"ready": true' in output
        # killed by the signal before the node listens for it, which shells call 130 too
        assert process.returncode in ((0,) if was_ready else (130, -signal.SIGINT)), (delay_ms, text)
        assert "Traceback" not in text or was_python(process.returncode, text), (delay_ms, text)
        eventually(lambda: processes_below(node.directory) == [])
        if was_ready:
            break
    with node:
        assert deliver(node, node.address, message(1)).startswith(b"250")
        assert stored(node) == [message(1)]


async def deliver_until_goodbye(node: NodeProcess, numbers: Iterator[int], acked: list[bytes]) -> None:
    """Or until the node hangs up."""
    with contextlib.suppress(OSError):
        client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
        code = 250
        while code == 250:
            mail = message(next(numbers), 4000)
            ((code, _),) = await client.deliver(mail, [node.address])
            if code == 250:
                acked.append(mail)
        assert 400 <= code < 500
        client.writer.close()


@pytest.mark.parametrize("staging", ["database", "disk"])
def test_sigterm_under_load_ends_in_time_and_loses_nothing(staging: str) -> None:
    acked: list[bytes] = []
    numbers = itertools.count(1)

    async def run(node: NodeProcess) -> float:
        assert node.process is not None
        tasks = [asyncio.create_task(deliver_until_goodbye(node, numbers, acked)) for _ in range(8)]
        while len(acked) < 150:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        assert await asyncio.to_thread(node.process.wait, 120) == 0
        return time.monotonic() - started

    node = NodeProcess().prepare(
        lambda text: text.replace("[uploader]\n", f'[uploader]\nstaging = "{staging}"\n')
    )
    with node:
        print(f"ended after {asyncio.run(run(node)):.1f} s")
        assert processes_below(node.directory / "data") == []
        node.start()
        found = stored(node)
        assert len(found) == len(set(found))
        assert set(found) >= set(acked)
        node.wait_until_uploaded()


async def append_until_goodbye(node: NodeProcess, numbers: Iterator[int], acked: list[bytes]) -> bytes:
    """The last line that the node said."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", node.port("imaps"), ssl=client_context(node), server_hostname="localhost"
    )
    await reader.readline()
    writer.write(f'a LOGIN {node.address} "{node.password}"\r\n'.encode())
    last = await until_tagged(reader)
    while last.startswith(b"a OK"):
        mail = message(next(numbers), 4000)
        writer.write(b"a APPEND INBOX {%d+}\r\n%s\r\n" % (len(mail), mail))
        last = await until_tagged(reader)
        if last.startswith(b"a OK"):
            acked.append(mail)
    writer.close()
    return last


async def until_tagged(reader: asyncio.StreamReader) -> bytes:
    """The tagged line, a BYE, or nothing when the connection ends."""
    try:
        while (line := await reader.readline()) and not line.startswith((b"a ", b"* BYE")):
            continue
    except OSError:
        return b""
    return line


async def idle_until_goodbye(node: NodeProcess) -> tuple[float, bytes]:
    """When the goodbye came, and how it reads."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", node.port("imaps"), ssl=client_context(node), server_hostname="localhost"
    )
    await reader.readline()
    writer.write(f'a LOGIN {node.address} "{node.password}"\r\n'.encode())
    assert (await until_tagged(reader)).startswith(b"a OK")
    writer.write(b"a SELECT INBOX\r\n")
    assert (await until_tagged(reader)).startswith(b"a OK")
    writer.write(b"a IDLE\r\n")
    line = await until_tagged(reader)
    came = time.monotonic()
    writer.close()
    return came, line


@pytest.mark.parametrize("staging", ["database", "disk"])
def test_sigterm_under_mixed_load_of_two_workers_loses_nothing_and_says_goodbye(staging: str) -> None:
    delivered: list[bytes] = []
    appended: list[bytes] = []
    numbers = itertools.count(1)

    async def run(node: NodeProcess) -> float:
        assert node.process is not None
        idlers = [asyncio.create_task(idle_until_goodbye(node)) for _ in range(40)]
        senders = [asyncio.create_task(deliver_until_goodbye(node, numbers, delivered)) for _ in range(6)]
        writers = [asyncio.create_task(append_until_goodbye(node, numbers, appended)) for _ in range(4)]
        while len(delivered) < 100 or len(appended) < 50:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        lines = await asyncio.gather(*writers)
        assert all(line.startswith((b"* BYE", b"a NO")) for line in lines), lines
        await asyncio.gather(*senders)
        goodbyes = await asyncio.gather(*idlers)
        assert all(line.startswith(b"* BYE") for _, line in goodbyes)
        print(f"goodbye within {max(came for came, _ in goodbyes) - started:.1f} s")
        assert await asyncio.to_thread(node.process.wait, 120) == 0
        return time.monotonic() - started

    def settings(text: str) -> str:
        text = text.replace("workers = 1\n", "workers = 2\n")
        return text.replace("[uploader]\n", f'[uploader]\nstaging = "{staging}"\n')

    node = NodeProcess().prepare(settings)
    with node:
        print(f"ended after {asyncio.run(run(node)):.1f} s")
        assert processes_below(node.directory / "data") == []
        node.start()
        raw = stored_raw(node)
        found = [each[each.index(b"Subject: outage") :] for each in raw]  # appended ones have no trace
        assert len(found) == len(set(found))
        assert set(found) >= {*delivered, *appended}
        node.wait_until_uploaded()
