"""Port 80, on real sockets."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from node import challengeserver
from node.challengepart import ChallengePart
from node.challengeserver import ChallengeServer
from node.config import Config
from node.config.acme import LetsEncrypt
from node.config.services import Tls
from node.sockets import Sockets, bind
from node.units import Address
from tests.tls.test_challenges import HOST, PATH, PREFIX, TEXT, THUMBPRINT, TOKEN, challenges
from tls.challenges import Challenges
from tls.ports import BucketUnavailable

Store = Callable[[str], Awaitable["str | None"]]


async def empty(_token: str) -> str | None:
    return None


@asynccontextmanager
async def serving(
    answering: Challenges, store: Store = empty, *, redirects: bool = False
) -> AsyncIterator[ChallengeServer]:
    server = ChallengeServer(answering, store, redirects_to_https=redirects)
    await server.open(bind(Address("127.0.0.1", 0)))
    try:
        yield server
    finally:
        await server.close()


async def ask(server: ChallengeServer, request: str) -> tuple[int, dict[str, str], str]:
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    answer = (await asyncio.wait_for(reader.read(), 60)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def get(path: str = PATH, host: str = HOST, method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_answer_is_plain_text_for_get_and_head() -> None:
    answering = challenges()
    answering.put(TOKEN, TEXT, now())
    async with serving(answering) as server:
        for _ in range(3):
            status, headers, body = await ask(server, get(host=f"{HOST}:80"))
            assert (status, body) == (200, TEXT)
            assert headers["Content-Type"].startswith("text/plain")
            assert headers["Connection"] == "close"
        status, headers, body = await ask(server, get(method="HEAD"))
        assert (status, headers["Content-Length"], body) == (200, str(len(TEXT)), "")
        assert (await ask(server, get(PATH + "?x=y")))[0] == 200


@pytest.mark.parametrize(
    "request_text",
    [
        get(method="POST"),
        get(method="DELETE"),
        get(host="other.example"),
        get("/"),
        get(PREFIX + "short"),
        get(PREFIX + "../../etc/passwd"),
        get(PREFIX + "%2e%2e/%2e%2e/etc/passwd"),
        f"GET {PATH} HTTP/1.0\r\n\r\n",
    ],
)
async def test_everything_else_is_404_and_asks_no_store(request_text: str) -> None:
    asked: list[str] = []

    async def store(token: str) -> str | None:
        asked.append(token)
        return TEXT

    answering = challenges()
    answering.expect(now() + 60)
    async with serving(answering, store) as server:
        assert (await ask(server, request_text))[0] == 404
    assert asked == []


async def test_garbage_is_400() -> None:
    async with serving(challenges()) as server:
        assert (await ask(server, "\x16\x03\x01 no http\r\n\r\n"))[0] == 400


async def test_the_store_is_asked_once_for_those_who_come_together() -> None:
    asked: list[str] = []
    gate = asyncio.Event()

    async def store(token: str) -> str | None:
        asked.append(token)
        await gate.wait()
        return TEXT

    answering = challenges()
    answering.expect(now() + 60)
    async with serving(answering, store) as server:
        asking = [asyncio.create_task(ask(server, get())) for _ in range(5)]
        while not asked or len(server._http.connections) < len(asking):
            await asyncio.sleep(0)
        gate.set()
        assert {(status, body) for status, _, body in await asyncio.gather(*asking)} == {(200, TEXT)}
    assert asked == [TOKEN]


@pytest.mark.parametrize("thumbprint", ["", THUMBPRINT])
async def test_a_store_that_is_away(thumbprint: str, caplog: pytest.LogCaptureFixture) -> None:
    async def store(_token: str) -> str | None:
        raise BucketUnavailable("no route")

    answering = challenges(thumbprint)
    answering.expect(now() + 60)
    async with serving(answering, store) as server:
        status, _, body = await ask(server, get())
    assert (status, body) == ((200, TEXT) if thumbprint else (404, "Not here\n"))
    assert "no route" in caplog.text


async def test_who_holds_the_port_full_does_not_keep_an_authority_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(challengeserver, "MAX_CONNECTIONS", 3)
    async with serving(challenges(thumbprint=THUMBPRINT)) as server:
        host, _, port = server.address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for _, writer in idle:
            writer.write(b"GET / HTTP/1.1\r\nX: ")
        async with asyncio.timeout(60):
            while len(server._http.connections) < len(idle):  # accepted, not only connected
                await asyncio.sleep(0.001)
        with caplog.at_level(logging.INFO):
            assert (await ask(server, get()))[0] == 200
        assert await asyncio.wait_for(idle[0][0].read(), 60) == b""
        assert server.refused == 1
        assert "was answered" not in caplog.text, (
            "anybody may ask for stateless answers, as often as he likes"
        )
        for _, writer in idle:
            writer.close()


async def test_others_are_sent_to_https_where_that_is_asked_for() -> None:
    async with serving(challenges(), redirects=True) as server:
        status, headers, _ = await ask(server, get("/inbox?a=b", host=f"{HOST}:80"))
        assert (status, headers["Location"]) == (301, f"https://{HOST}/inbox?a=b")
        assert (await ask(server, get("/", host="evil.example")))[0] == 404
        assert (await ask(server, get(PREFIX + "short")))[0] == 404


def with_port(port: int) -> Config:
    acme = LetsEncrypt(domains=(HOST,), challenge_listen=Address("127.0.0.1", port))
    return Config(tls=Tls(enabled=True, provider="letsencrypt", letsencrypt=acme))


async def test_a_port_that_is_taken_is_no_reason_not_to_start(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = with_port(port)
        sockets = Sockets(config)
        sockets.bind()
        part = ChallengePart(config, sockets)
        async with AsyncExitStack() as stack:
            await part.open(stack)
        assert part.server is None
        assert f"port {port}" in part.trouble
        assert "in use" in part.trouble
        assert caplog.text.count("challenges cannot be answered here") == 1


async def test_a_port_without_the_right_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: Address) -> list[socket.socket]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("node.sockets.bind", refuse)
    config = with_port(80)
    sockets = Sockets(config)
    sockets.bind()
    assert "CAP_NET_BIND_SERVICE" in ChallengePart(config, sockets).trouble


async def test_the_part_answers_and_follows_a_reload() -> None:
    config = with_port(0)
    sockets = Sockets(config)
    sockets.bind()
    part = ChallengePart(config, sockets)
    async with AsyncExitStack() as stack:
        await part.open(stack)
        assert part.trouble == ""
        assert part.server is not None
        part.challenges.put(TOKEN, TEXT, now())
        assert (await ask(part.server, get()))[0] == 200
        acme = replace(config.tls.letsencrypt, domains=("other.example",))
        part.obey(replace(config, tls=replace(config.tls, letsencrypt=acme)))
        assert (await ask(part.server, get()))[0] == 404
        assert (await ask(part.server, get(host="other.example")))[0] == 200


async def test_a_scrape_says_where_answers_came_from_and_whether_the_port_is_open() -> None:
    for is_taken in (False, True):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            config = with_port(taken.getsockname()[1] if is_taken else 0)
            sockets = Sockets(config)
            sockets.bind()
            part = ChallengePart(config, sockets)
            async with AsyncExitStack() as stack:
                await part.open(stack)
                part.challenges.put(TOKEN, TEXT, now())
                if part.server is not None:
                    await ask(part.server, get())
                    await ask(part.server, get("/"))
                figures = {(name, labels): value for name, labels, value in part.figures()}
        assert figures["sora_challenge_port_open", ()] == (not is_taken)
        assert figures["sora_challenge_requests_total", ("memory",)] == (not is_taken)
        assert figures["sora_challenge_requests_total", ("other_path",)] == (not is_taken)
        assert figures["sora_challenge_requests_total", ("stateless",)] == 0


async def test_files_need_no_challenges() -> None:
    config = Config()
    sockets = Sockets(config)
    sockets.bind()
    part = ChallengePart(config, sockets)
    async with AsyncExitStack() as stack:
        await part.open(stack)
    assert (part.server, part.trouble) == (None, "")
