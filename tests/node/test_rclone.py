from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from node.rclone import RcloneServer, RcloneUnusable
from tests.support.ports import free_port
from tests.support.s3 import ACCESS, SECRET


async def test_a_server_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    orphan = RcloneServer(tmp_path / "objects", port, ACCESS, SECRET)
    await orphan.start("mail")
    left = int((tmp_path / "rclone.pid").read_text())
    successor = RcloneServer(tmp_path / "objects", port, ACCESS, SECRET)
    await successor.start("mail")
    assert int((tmp_path / "rclone.pid").read_text()) != left
    await successor.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
    await orphan.stop()  # reaps


async def test_a_pid_file_that_names_a_stranger_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "rclone.pid").write_text(str(os.getpid()))
    server = RcloneServer(tmp_path / "objects", free_port(), ACCESS, SECRET)
    await server.start("mail")  # this process is still here to say so
    await server.stop()


async def test_a_taken_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        server = RcloneServer(tmp_path / "objects", port, ACCESS, SECRET)
        with pytest.raises(RcloneUnusable, match=str(port)):
            await server.start("mail")


async def test_the_key_is_not_in_the_argument_list(tmp_path: Path) -> None:
    server = RcloneServer(tmp_path / "objects", free_port(), ACCESS, SECRET)
    await server.start("mail")
    pid = int((tmp_path / "rclone.pid").read_text())
    assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text()
    await server.stop()
