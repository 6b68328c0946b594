"""A spam filter's HTTP end, in a thread: it keeps what it is taught, and fails as it is told to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from .ports import free_port


class SpamFilter:
    """``status`` is answered to every request; ``hold`` makes requests wait for ``release``."""

    def __init__(self, token: str = "") -> None:
        self.status = 200
        self.lessons: list[dict[str, Any]] = []
        self.asked = 0
        self.unauthorized = 0
        self._token = token
        self._free = threading.Event()
        self._free.set()
        self._port = free_port()  # one to which it can come back

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/learn"

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def take(self, headers: Any, body: bytes) -> int:
        self.asked += 1
        self._free.wait()
        if self._token and headers["Authorization"] != f"Bearer {self._token}":
            self.unauthorized += 1
        if self.status == 200:
            self.lessons.append(json.loads(body))
        return self.status

    def start(self) -> None:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status = owner.take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """The test reports."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self) -> None:
        """Nobody listens any more; ``start`` takes the same port."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> SpamFilter:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self.stop()
