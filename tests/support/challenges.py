"""Answers HTTP-01 challenges for tests that have no node: a dictionary behind a port."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PREFIX = "/.well-known/acme-challenge/"


class ChallengeAnswers:
    """Use as a context manager. ``answers``: key authorisations by token. ``hosts``: who was asked for.

    ``folders``: files named like tokens answer too, for other processes.
    """

    def __init__(self, ip: str, port: int) -> None:
        self.answers: dict[str, str] = {}
        self.hosts: list[str] = []
        self.folders: list[Path] = []
        answers, hosts, folders = self.answers, self.hosts, self.folders

        def found(token: str) -> str | None:
            files = (folder / token for folder in folders if token)
            return answers.get(token) or next((file.read_text() for file in files if file.is_file()), None)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hosts.append(self.headers["Host"].split(":")[0])
                answer = found(self.path.removeprefix(PREFIX))
                self.send_response(404 if answer is None else 200)
                self.end_headers()
                self.wfile.write((answer or "").encode())

            def log_message(self, format: str, *args: object) -> None:
                """Not to standard error."""

        self._server = ThreadingHTTPServer((ip, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> ChallengeAnswers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
