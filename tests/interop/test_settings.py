"""Settings that change where bytes are: encryption, staging on disk, no cache, a read replica."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

from storage.postgres.server import PORT, LocalServer
from tests.support.lineclient import LineClient
from tests.support.livenode import deliver, imap_inbox, message, stored
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import eventually

PHRASE = b"the quick brown fox of message"


def telling(number: int) -> bytes:
    return b"Subject: telling %d\r\n\r\n%s %d\r\n" % (number, PHRASE, number)


def files_with_phrase(directory: Path) -> int:
    return sum(PHRASE in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def restart(node: NodeProcess, edit: Callable[[str], str]) -> None:
    assert node.stop() == 0
    config = node.directory / "data" / "config.toml"
    config.write_text(edit(config.read_text()))
    node.start()


def with_keys(current: str, previous: str = "") -> Callable[[str], str]:
    """Replace the settings of encryption."""
    lines = f'encrypt = true\nencryption_key = "{current}"\n'
    if previous:
        lines += f'previous_encryption_keys = ["{previous}"]\n'

    def edit(text: str) -> str:
        text = re.sub(r"(?m)^(encrypt|encryption_key|previous_encryption_keys) = .*\n", "", text)
        return text.replace("[s3]\n", "[s3]\n" + lines)

    return edit


def test_bodies_are_sealed_and_keys_rotate() -> None:
    one, two = secrets.token_hex(32), secrets.token_hex(32)

    def start(text: str) -> str:
        text = text.replace('capacity = "1gb"', 'capacity = "0"')
        text = text.replace("[s3]\n", "[s3]\ncompress = false\n")
        return text.replace("[uploader]\n", '[uploader]\nstaging = "disk"\n')

    node = NodeProcess().prepare(start)
    objects, staging = (node.directory / "data" / name for name in ("objects", "staging"))
    with node:
        assert deliver(node, node.address, telling(1)).startswith(b"250")
        node.wait_until_uploaded()
        assert (files_with_phrase(objects), files_with_phrase(staging)) == (1, 1)  # what the rest must not do

        restart(node, with_keys(one))
        assert deliver(node, node.address, telling(2)).startswith(b"250")
        node.wait_until_uploaded()
        restart(node, with_keys(two, previous=one))
        assert deliver(node, node.address, telling(3)).startswith(b"250")
        node.wait_until_uploaded()
        assert (files_with_phrase(objects), files_with_phrase(staging)) == (1, 1)
        assert sum(path.is_file() for path in objects.rglob("*")) == 3
        assert not (node.directory / "data" / "cache").exists()
        assert stored(node) == [telling(1), telling(2), telling(3)]

        restart(node, with_keys(two))  # somebody lost the old key
        with imap_inbox(node) as session:
            status, lines = session.imap(b"FETCH 2 (BODY.PEEK[])")
            assert status.startswith(b"NO "), status
            assert not any(b"BODY[]" in line for line in lines)
            assert session.imap(b"FETCH 3 (BODY.PEEK[])")[0].startswith(b"OK")
        restart(node, with_keys(two, previous=one))
        assert stored(node) == [telling(1), telling(2), telling(3)]


# --- a read replica ----------------------------------------------------------------------------------

APPLY_DELAY_MS = 400


async def clone(primary: LocalServer, directory: Path) -> LocalServer:
    """A standby that replays late."""
    options = {
        "recovery_min_apply_delay": str(APPLY_DELAY_MS),
        "shared_buffers": "32MB",
        "max_connections": "60",
    }
    standby = LocalServer(directory, primary.password, binaries=primary.binaries, options=options, sync=False)
    directory.mkdir(mode=0o700)
    primary._prepare()
    launch = primary._launch
    launch.own(directory)
    command = [
        *launch.prefix,
        str(primary.binaries / "pg_basebackup"),
        "-D",
        str(standby.data),
        "-R",
        "--no-sync",
    ]
    command += ["-c", "fast", "-h", str(primary.socket_directory), "-p", str(PORT), "-U", primary.user]
    environment = {**os.environ, "PGPASSWORD": primary.password}
    subprocess.run(command, check=True, env=environment, cwd="/", capture_output=True, **launch.options())
    await standby.start()
    return standby


async def transactions(server: LocalServer) -> int:
    connection = await server.connect("sora_mail_db")
    try:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        count: int = await connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = 'sora_mail_db'"
        )
        return count
    finally:
        await connection.close()


def test_everybody_reads_their_own_writes_with_a_replica_that_lags() -> None:
    with NodeProcess() as node:
        data = node.directory / "data"
        primary = LocalServer(data / "postgres", (data / "postgres.password").read_text())
        standby = asyncio.run(clone(primary, node.directory / "replica"))
        try:
            before = asyncio.run(transactions(standby))
            read = f'[database.read]\nhosts = ["{standby.socket_directory}"]\n'
            restart(node, lambda text: text.replace("[s3]\n", read + "\n[s3]\n", 1))
            write_and_read_at_once(node, 40)
            eventually(lambda: looked_at(node) and asyncio.run(transactions(standby)) > before + 10)
            asyncio.run(standby.kill())
            assert looked_at(node)
        finally:
            asyncio.run(standby.stop())


def looked_at(node: NodeProcess) -> bool:
    """By somebody who wrote nothing lately."""
    with imap_inbox(node) as session:
        return session.imap(b"UID FETCH 1:* (ENVELOPE)")[0].startswith(b"OK")


def write_and_read_at_once(node: NodeProcess, rounds: int) -> None:
    with imap_inbox(node) as writer:
        for number in range(1, rounds + 1):
            mail = message(number)
            writer.send(b"a APPEND INBOX {%d+}\r\n" % len(mail) + mail + b"\r\n")
            while not (line := writer.line()).startswith(b"a "):
                assert line
            assert line.startswith(b"a OK [APPENDUID")
            uid = int(line.split(b"]")[0].split()[-1])
            with imap_inbox(node) as reader:  # a fresh view, from whichever server
                status, lines = reader.imap(b"UID FETCH %d (ENVELOPE BODY.PEEK[])" % uid)
                assert status.startswith(b"OK")
                assert mail in lines
                assert reader.imap(rb"UID STORE %d +FLAGS (\Seen)" % uid)[0].startswith(b"OK")
            assert status_of(writer, b"INBOX") == b"(MESSAGES %d UNSEEN 0)" % number
            name = b"box%d" % number
            assert writer.imap(b"CREATE " + name)[0].startswith(b"OK")
            assert any(name in line for line in writer.imap(b'LIST "" ' + name)[1])
            assert writer.imap(b"UID COPY %d %s" % (uid, name))[0].startswith(b"OK")
            assert status_of(writer, name) == b"(MESSAGES 1 UNSEEN 0)"


def status_of(client: LineClient, mailbox: bytes) -> bytes:
    """What STATUS answers, among whatever else there is to be told."""
    _, lines = client.imap(b"STATUS %s (MESSAGES UNSEEN)" % mailbox)
    (line,) = [line for line in lines if line.startswith(b"* STATUS")]
    return line[line.index(b"(") :]
