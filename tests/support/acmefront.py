"""A stub in front of an ACME server: passes requests on, counts them, and answers some itself.

It runs in a thread of its own, so that plain and async tests and node processes can all use it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

# Of pebble's own paths, which are unusual on purpose.
KINDS = {
    "dir": "directory",
    "nonce-plz": "new-nonce",
    "sign-me-up": "new-account",
    "order-plz": "new-order",
    "revoke-cert": "revoke",
    "rollover-account-key": "key-change",
    "my-account": "account",
    "my-order": "order",
    "finalize-order": "finalize",
    "authZ": "authorisation",
    "chalZ": "challenge",
    "certZ": "certificate",
    "renewal-info": "renewal-info",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. ``payload``: None for a GET or an empty one. ``status``: 0 while it runs or cut off."""

    kind: str
    path: str
    header: Mapping[str, Any]
    payload: Any
    status: int = 0


@dataclass(slots=True)
class Rule:
    """What happens to the next ``times`` requests of a kind ("*": all). Rules are tried in order.

    ``status`` 0: the request goes on to the CA. ``lose_answer``: the CA does it, the client hears nothing, or
    ``status`` when there is one.
    ``cut``: the connection ends without an answer. ``hang``: nothing more is said; with ``lose_answer``
    the CA does it.
    """

    kind: str
    status: int = 0
    problem: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1 << 30
    skip: int = 0  # so many requests of the kind are left alone first
    lose_answer: bool = False
    cut: bool = False
    hang: bool = False
    when: Callable[[Seen], bool] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Renewal information for every certificate."""

    start: datetime
    end: datetime
    retry_after: str = ""
    explanation: str = ""


class Front:
    """``window`` and ``profiles`` appear in the directory while they are set."""

    def __init__(self, folder: Path, ip: str, host: str, upstream: str) -> None:
        self._folder = folder
        self._ip = ip
        self._host = host
        self._upstream = upstream
        self._rules: list[Rule] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._session: aiohttp.ClientSession | None = None
        self.port = 0
        self.seen: list[Seen] = []
        self.window: Window | None = None
        self.profiles: dict[str, str] = {}
        # Pebble reuses authorisations for one order in a hundred though it is told never to: then the client
        # is told to ask once more, and nothing is seen.
        self.lets_reuse = False
        # Of two that finalize one order at the same moment Pebble issues to both, which no real CA does.
        self._finalizing = asyncio.Lock()
        self.on_request: Callable[[Seen], None] | None = None  # in the stub's thread, before it is passed on
        self.on_answer: Callable[[Seen], None] | None = None  # in the stub's thread, before it is answered

    # --- for tests ---

    def add(self, rule: Rule) -> None:
        self._rules.append(rule)

    def clear(self) -> None:
        """No rules, nothing seen, no additions to the directory."""
        self._rules.clear()
        self.seen.clear()
        self.window = None
        self.profiles = {}
        self.on_request = self.on_answer = None

    def count(self, kind: str) -> int:
        """Requests of the kind that were answered with success: ``new-order`` orders, ``finalize``
        certificates, ``new-account`` registrations and look-ups."""
        return sum(each.kind == kind and 200 <= each.status < 300 for each in self.seen)

    def requests(self, kind: str) -> list[Seen]:
        """In the order of their answers, whatever it was."""
        return [each for each in self.seen if each.kind == kind]

    @property
    def renewal_info_path(self) -> str:
        return "/renewal-info"

    # --- life ---

    def start(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), daemon=True)
        self._thread.start()
        assert started.wait(60), "the stub of the CA does not start"

    def stop(self) -> None:
        if self._thread is None or self._loop is None or self._ended is None:
            return
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)
        self._thread = None

    async def _run(self, started: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        trust = ssl.create_default_context(cafile=self._folder / "directory.pem")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(self._folder / "directory.pem", self._folder / "directory.key")
        application = web.Application(client_max_size=1 << 20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=0.1)
        # no connection is kept: a CA that was killed and started again would be met on a dead one
        connector = aiohttp.TCPConnector(ssl=trust, limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            self._session = session
            await runner.setup()
            site = web.TCPSite(runner, self._ip, 0, ssl_context=server)
            await site.start()
            self.port = runner.addresses[0][1]
            started.set()
            await self._ended.wait()
            await runner.cleanup()

    # --- one request ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = _seen(request.path, body)
        if self.on_request is not None:
            self.on_request(seen)
        rule = self._rule(seen)
        if rule is not None and rule.hang and not rule.lose_answer:
            self.seen.append(seen)
            await asyncio.Event().wait()
        if rule is not None and rule.cut:
            return self._cut(request, seen)
        if rule is not None and rule.status and not rule.lose_answer:
            return self._answer(request, seen, _made(rule))
        async with self._finalizing if seen.kind == "finalize" else contextlib.nullcontext():
            answer = await self._pass_on(request, body, seen)
        if seen.kind == "new-order" and not self.lets_reuse and _is_ready(answer):
            if rule is not None:
                rule.times += 1
            return _ask_once_more(answer)
        if rule is not None and rule.hang:
            self._note(seen, answer.status)
            await asyncio.Event().wait()
        if rule is not None and rule.lose_answer and rule.status:
            return self._answer(request, seen, _made(rule))
        if rule is not None and rule.lose_answer:
            return self._cut(request, seen, answer.status)
        return self._answer(request, seen, answer)

    def _rule(self, seen: Seen) -> Rule | None:
        for rule in self._rules:
            if rule.kind not in ("*", seen.kind) or rule.times <= 0 or (rule.when and not rule.when(seen)):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            rule.times -= 1
            return rule
        return None

    def _cut(self, request: web.Request, seen: Seen, status: int = 0) -> web.StreamResponse:
        self._note(seen, status)
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)

    def _answer(self, request: web.Request, seen: Seen, answer: web.Response) -> web.Response:
        self._note(seen, answer.status)
        return answer

    def _note(self, seen: Seen, status: int) -> None:
        noted = Seen(seen.kind, seen.path, seen.header, seen.payload, status)
        self.seen.append(noted)
        if self.on_answer is not None:
            self.on_answer(noted)

    async def _pass_on(self, request: web.Request, body: bytes, seen: Seen) -> web.Response:
        if seen.kind == "renewal-info":
            return self._renewal_info()
        assert self._session is not None
        kept = ("content-type", "user-agent", "accept")
        headers = {name: value for name, value in request.headers.items() if name.lower() in kept}
        headers["Host"] = request.headers["Host"]  # the CA makes its links of it
        try:
            async with self._session.request(
                request.method, self._upstream + request.path_qs, data=body or None, headers=headers
            ) as answer:
                content = await answer.read()
                if seen.kind == "directory" and answer.status == 200:
                    content = self._directory(content)
                return web.Response(status=answer.status, body=content, headers=_kept(answer.headers))
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"stub: {error}")

    def _directory(self, content: bytes) -> bytes:
        directory = json.loads(content)
        if self.window is not None:
            directory["renewalInfo"] = f"https://{self._host}:{self.port}{self.renewal_info_path}"
        if self.profiles:
            directory["meta"]["profiles"] = self.profiles
        return json.dumps(directory).encode()

    def _renewal_info(self) -> web.Response:
        if self.window is None:
            return web.Response(status=404)
        body: dict[str, Any] = {
            "suggestedWindow": {"start": _rfc3339(self.window.start), "end": _rfc3339(self.window.end)}
        }
        if self.window.explanation:
            body["explanationURL"] = self.window.explanation
        headers = {"Retry-After": self.window.retry_after} if self.window.retry_after else {}
        return web.json_response(body, headers=headers)


def _seen(path: str, body: bytes) -> Seen:
    first = path.strip("/").split("/")[0]
    kind = KINDS.get(first, first)
    if not body:
        return Seen(kind, path, {}, None)
    outer = json.loads(body)
    payload = _decoded(outer["payload"])
    return Seen(
        kind, path, json.loads(_decoded(outer["protected"])), json.loads(payload) if payload else None
    )


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _made(rule: Rule) -> web.Response:
    headers = dict(rule.headers)
    if rule.problem is not None:
        headers["Content-Type"] = "application/problem+json"
        return web.Response(status=rule.status, body=json.dumps(rule.problem).encode(), headers=headers)
    return web.Response(status=rule.status, body=rule.body, headers=headers)


def _is_ready(order: web.Response) -> bool:
    """At once: every name was validated before."""
    assert isinstance(order.body, bytes)
    return order.status == 201 and json.loads(order.body)["status"] == "ready"


def _ask_once_more(answer: web.Response) -> web.Response:
    problem = {"type": "urn:ietf:params:acme:error:badNonce", "detail": "stub: a new order, please"}
    headers = {"Replay-Nonce": answer.headers["Replay-Nonce"], "Content-Type": "application/problem+json"}
    return web.Response(status=400, body=json.dumps(problem).encode(), headers=headers)


def _kept(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    dropped = ("content-length", "transfer-encoding", "connection", "date", "content-encoding")
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]


def _rfc3339(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
