"""The control socket: who may ask, what is answered, and what garbage does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.config import Config, Uploader
from node.control import (
    MAX_LINE_BYTES,
    Arguments,
    ControlRefused,
    ControlServer,
    ControlUnusable,
    ask,
    control_path,
    seconds_argument,
    text_argument,
)


async def echo(arguments: Arguments) -> object:
    return dict(arguments)


async def refuse(_arguments: Arguments) -> object:
    raise ControlRefused("not_found", "there is no such thing")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ControlServer]:
    # deeper than a socket address is long
    running = ControlServer(tmp_path / ("d" * 100) / "control.sock", {"echo": echo, "refuse": refuse})
    await running.open()
    yield running
    await running.close()


async def say(server: ControlServer, raw: bytes) -> list[Any]:
    """What comes back for these bytes, up to the end."""
    directory = os.open(server.path.parent, os.O_RDONLY)
    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{server.path.name}")
    os.close(directory)
    writer.write(raw)
    writer.write_eof()
    lines = (await reader.read()).splitlines()
    writer.close()
    return [json.loads(line) for line in lines]


async def test_a_request_and_its_reply(server: ControlServer) -> None:
    assert await asyncio.to_thread(ask, server.path, "echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
    with pytest.raises(ControlRefused, match="no such thing") as caught:
        await asyncio.to_thread(ask, server.path, "refuse")
    assert caught.value.code == "not_found"
    with pytest.raises(ControlRefused, match="no command 'stop'"):
        await asyncio.to_thread(ask, server.path, "stop")


async def test_one_connection_may_ask_often(server: ControlServer) -> None:
    replies = await say(server, b'{"command": "echo"}\n{"command": "echo", "arguments": {"n": 2}}\n')
    assert replies == [{"ok": True, "result": {}}, {"ok": True, "result": {"n": 2}}]


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"command": 1}',
        b'{"command": "echo", "arguments": []}',
        b"[" * 50_000,
        b'"' + b"x" * (2 * MAX_LINE_BYTES) + b'"',
    ],
    ids=lambda line: line[:12],
)
async def test_garbage_is_refused_in_json(server: ControlServer, line: bytes) -> None:
    (reply,) = await say(server, line + b"\n")
    assert (reply["ok"], reply["code"]) == (False, "usage")
    assert await asyncio.to_thread(ask, server.path, "echo") == {}


async def test_nobody_else_may_connect(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)  # the node is now somebody else
    if uid == 0:
        assert await asyncio.to_thread(ask, server.path, "echo") == {}
    else:
        with pytest.raises(ControlRefused, match="only root"):
            await asyncio.to_thread(ask, server.path, "echo")


async def test_a_refusal_is_heard_though_the_node_hung_up_before_it_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    refusal = b'{"ok": false, "code": "forbidden", "error": "only root"}\n'
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        hung_up = threading.Event()
        connect = socket.socket.connect

        def refuse() -> None:
            accepted, _ = listening.accept()
            accepted.sendall(refusal)
            accepted.close()
            hung_up.set()

        class Late(socket.socket):
            def connect(self, address: object) -> None:  # type: ignore[override]
                connect(self, address)  # type: ignore[arg-type]
                assert hung_up.wait(60)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(socket, "socket", Late)
            with pytest.raises(ControlRefused, match="only root"):
                ask(path, "echo")
        thread.join()


@pytest.mark.parametrize(
    ("peer", "own", "allowed"), [(0, 7, True), (7, 7, True), (8, 7, False), (7, 0, False)]
)
def test_who_is_allowed(monkeypatch: pytest.MonkeyPatch, peer: int, own: int, allowed: bool) -> None:
    from node import control

    class Connected:
        def getsockopt(self, *_words: int) -> bytes:
            return control._CREDENTIALS.pack(123, peer, peer)

    monkeypatch.setattr(os, "geteuid", lambda: own)
    assert control._is_allowed(Connected()) is allowed  # type: ignore[arg-type]


async def test_a_left_over_file_is_replaced_and_a_live_node_is_not(
    server: ControlServer, tmp_path: Path
) -> None:
    with pytest.raises(ControlUnusable, match="another node answers"):
        await ControlServer(server.path, {}).open()
    left_over = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left_over)) if len(str(left_over)) < 100 else left_over.unlink(missing_ok=True)
    second = ControlServer(left_over, {"echo": echo})
    await second.open()
    assert await asyncio.to_thread(ask, left_over, "echo") == {}
    await second.close()
    assert not left_over.exists()
    left_over.write_text("a file")
    with pytest.raises(ControlUnusable, match="no socket"):
        await ControlServer(left_over, {}).open()


async def test_a_stop_ends_open_connections(server: ControlServer) -> None:
    directory = os.open(server.path.parent, os.O_RDONLY)
    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{server.path.name}")
    os.close(directory)
    writer.write(b'{"command": "echo"}\n')
    assert await reader.readline()
    await server.close()
    assert await reader.read() == b""
    writer.close()


def test_no_node_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path / "control.sock", tmp_path / "missing" / "control.sock"):
        with pytest.raises(ControlUnusable, match="no node is running here"):
            ask(path, "status")


def test_the_usual_place() -> None:
    assert control_path(Config(uploader=Uploader(path="/srv/sora/staging"))) == Path("/srv/sora/control.sock")
    assert control_path(Config(control_socket="/run/sora/c")) == Path("/run/sora/c")


@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan"), float("inf"), []])
def test_bad_seconds(value: object) -> None:
    with pytest.raises(ControlRefused, match="positive"):
        seconds_argument({"lasts_s": value}, "lasts_s")


def test_arguments() -> None:
    assert seconds_argument({}, "lasts_s") is None
    assert seconds_argument({"lasts_s": 3}, "lasts_s") == 3.0
    assert text_argument({}, "reason", "") == ""
    with pytest.raises(ControlRefused, match="address must be text"):
        text_argument({}, "address")
