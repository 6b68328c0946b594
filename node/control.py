"""The control socket: what ``sora-admin`` asks of a running node.

One line of JSON is one request, ``{"command": "blocks.list", "arguments": {}}``, and one line of JSON is its
reply, ``{"ok": true, "result": ...}`` or ``{"ok": false, "code": "not_found", "error": "..."}``. A connection
may ask several times. Only root and the user of the node may connect: the file's mode says so before the
kernel's word for the peer is asked.

To add a command: a handler in a table that ``app.py`` passes in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .config import Config

log = logging.getLogger("sora.control")

MAX_LINE_BYTES = 64 * 1024
MAX_CONNECTIONS = 32
IDLE_S = 60.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

Arguments = Mapping[str, Any]
Handler = Callable[[Arguments], Awaitable[object]]


class ControlRefused(Exception):
    """A request that cannot be granted.

    ``code`` is one of usage, not_found, exists, unknown_command, forbidden, busy.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ControlUnusable(Exception):
    """The socket cannot be made, or there is no node behind it; the message says which and why."""


def control_path(config: Config) -> Path:
    if config.control_socket:
        return Path(config.control_socket)
    return Path(config.uploader.path).absolute().parent / "control.sock"


def text_argument(arguments: Arguments, name: str, default: str | None = None) -> str:
    """Raises ControlRefused."""
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise ControlRefused("usage", f"{name} must be text")
    return value


def seconds_argument(arguments: Arguments, name: str) -> float | None:
    """A positive number, or None when it is not given. Raises ControlRefused."""
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ControlRefused("usage", f"{name} must be a positive number of seconds")
    return float(value)


class ControlServer:
    """Listens on ``path`` and answers from the table."""

    def __init__(self, path: Path, commands: Mapping[str, Handler]) -> None:
        self.path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises ControlUnusable."""
        listening = _bind(self.path)
        self._server = await asyncio.start_unix_server(self._connected, sock=listening, limit=MAX_LINE_BYTES)

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        with suppress(FileNotFoundError):
            self.path.unlink()
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not _is_allowed(writer.get_extra_info("socket")):
                await _reply(writer, _refusal("forbidden", "only root and the user of the node may ask"))
            elif len(self._connections) > MAX_CONNECTIONS:
                await _reply(writer, _refusal("busy", "too many programs ask at the same time"))
            else:
                await self._converse(reader, writer)
        except (ConnectionError, TimeoutError):
            log.debug("a control connection ended early")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
            except ValueError:  # longer than the limit; what follows cannot be told apart from it
                await _reply(writer, _refusal("usage", f"a request has at most {MAX_LINE_BYTES} bytes"))
                return
            if not line:
                return
            await _reply(writer, await self._answer(line))

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            command, arguments = _parse(line)
            handler = self._commands.get(command)
            if handler is None:
                raise ControlRefused("unknown_command", f"this node has no command {command!r}")
            return {"ok": True, "result": await handler(arguments)}
        except ControlRefused as error:
            return _refusal(error.code, str(error))


def _parse(line: bytes) -> tuple[str, Arguments]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlRefused("usage", "the request is not JSON") from error
    match request:
        case {"command": str(command), **rest}:
            arguments = rest.get("arguments", {})
            if isinstance(arguments, dict):
                return command, arguments
    raise ControlRefused("usage", 'a request has the form {"command": "...", "arguments": {...}}')


def _refusal(code: str, message: str) -> dict[str, object]:
    return {"ok": False, "code": code, "error": message}


async def _reply(writer: asyncio.StreamWriter, reply: Mapping[str, object]) -> None:
    writer.write(json.dumps(reply, ensure_ascii=True).encode() + b"\n")
    async with asyncio.timeout(IDLE_S):
        await writer.drain()


def _is_allowed(connected: socket.socket) -> bool:
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())


# --- files ---


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for ``path`` within the 107 bytes of a socket address, however deep its directory is."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _bind(path: Path) -> socket.socket:
    """A listening socket that nobody else may connect to. Raises ControlUnusable."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # what bind makes the file with
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_left_over(path)
        with _short(path) as name:
            listening.bind(name)
        path.chmod(0o600)
        listening.listen(MAX_CONNECTIONS)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ControlUnusable(f"control socket {path}: {error.strerror or error}{_cure(error)}") from error
    except ControlUnusable:
        listening.close()
        raise
    return listening


def _cure(error: OSError) -> str:
    if not isinstance(error, PermissionError):
        return ""
    return (
        " (its directory, and a socket that was left there, must be the node's user's: chown the one, remove"
        " the other, or set control_socket)"
    )


def _remove_left_over(path: Path) -> None:
    """The file of a node that was killed may go; that of one that answers may not."""
    if not path.exists():
        return
    if not path.is_socket():
        raise ControlUnusable(f"control socket {path}: a file of that name exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _short(path) as name:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ControlUnusable(f"control socket {path}: another node answers there")


# --- the other side ---


def ask(path: Path, command: str, arguments: Arguments | None = None, *, timeout_s: float = 10.0) -> Any:
    """One request to the node at ``path``; blocks. Raises ControlRefused, ControlUnusable."""
    request = json.dumps({"command": command, "arguments": dict(arguments or {})})
    if len(request) >= MAX_LINE_BYTES:
        raise ControlRefused("usage", "the request is too long")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(path) as name:
            connection.settimeout(timeout_s)
            connection.connect(name)
            with suppress(BrokenPipeError):  # a node that refuses us says so without listening
                connection.sendall(request.encode() + b"\n")
            with connection.makefile("rb") as replies:
                line = replies.readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlUnusable(f"no node is running here: nothing answers at {path}") from error
    except PermissionError as error:
        raise ControlUnusable(f"{path} may be used by root and by the user of the node only") from error
    except OSError as error:
        raise ControlUnusable(f"the node at {path} does not answer: {error}") from error
    return _result(path, line)


def _result(path: Path, line: bytes) -> Any:
    if not line:
        raise ControlUnusable(f"the node at {path} closed the connection; its log says why")
    match json.loads(line):
        case {"ok": True, "result": result}:
            return result
        case {"ok": False, "code": str(code), "error": str(message)}:
            raise ControlRefused(code, message)
    raise ControlUnusable(f"what answers at {path} is no node of this version")
