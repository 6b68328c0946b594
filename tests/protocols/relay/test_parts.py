"""The pure parts: breaker, form of messages, reports; and the HTTP transport against a small server."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes, policy

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from protocols.relay.breaker import Breaker, BreakerState
from protocols.relay.content import Needs, address_for_wire, dot_stuffed, needs_of, with_crlf
from protocols.relay.dsn import Failure, bounce
from protocols.relay.http import HttpTransport
from protocols.relay.transport import RelayDown, clean, status_of
from storage.relayfile import Fate, RelayEnvelope, Verdict

# --- breaker ---


def test_breaker() -> None:
    breaker = Breaker(threshold=2, timeout_s=10.0, max_requests=2)
    assert not breaker.failed(0.0)
    breaker.went_well(12.0)
    assert not breaker.failed(1.0)
    assert breaker.failed(2.0)
    assert breaker.state(2.0) is BreakerState.OPEN
    assert not breaker.permits(11.9, 0)
    assert breaker.reopens_in(5.0) == 7.0
    assert [breaker.permits(12.0, running) for running in (0, 1, 2)] == [True, True, False]
    breaker.went_well(12.0)
    assert [breaker.permits(12.0, running) for running in (0, 1)] == [True, False]
    assert breaker.failed(13.0)
    assert breaker.state(22.9) is BreakerState.OPEN
    assert breaker.permits(23.0, 0)
    breaker.went_well(23.0)
    breaker.went_well(23.0)
    assert breaker.state(23.0) is BreakerState.CLOSED
    assert not breaker.failed(24.0)


def test_a_breaker_that_has_nothing_more_to_try_closes() -> None:
    breaker = Breaker(threshold=1, timeout_s=10.0, max_requests=3)
    breaker.failed(0.0)
    assert breaker.permits(10.0, 0)
    breaker.went_well(11.0)
    assert breaker.state(20.9) is BreakerState.TRYING
    assert breaker.state(21.0) is BreakerState.CLOSED
    assert breaker.failed(22.0)
    assert breaker.permits(32.0, 0)
    assert breaker.state(99.0) is BreakerState.TRYING, "nothing went well"


# --- content ---


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\nb\rc\r\n", b"a\r\nb\r\nc\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n"),
        (b"a\r\n.\n", b"a\r\n.\r\n"),
    ],
)
def test_line_ends(raw: bytes, expected: bytes) -> None:
    assert with_crlf(raw) == expected


@given(st.binary(max_size=200) | st.text(".\r\na", max_size=60).map(str.encode))
def test_a_message_cannot_end_itself(raw: bytes) -> None:
    message = with_crlf(raw)
    sent = dot_stuffed(message)
    assert sent.endswith(b".\r\n")
    assert b"\r\n.\r\n" not in (b"\r\n" + sent)[:-3]
    lines = sent[:-3].split(b"\r\n")
    assert b"\r\n".join(line.removeprefix(b".") for line in lines) == message


@pytest.mark.parametrize(
    ("message", "addresses", "needs"),
    [
        (b"a: b\r\n\r\nc", ["a@b.c"], Needs(False, False)),
        ("a: b\r\n\r\né".encode(), ["a@b.c"], Needs(True, False)),
        ("a: é\r\n\r\nb".encode(), ["a@b.c"], Needs(True, True)),
        (b"a: \xe9\r\n\r\nb", ["a@b.c"], Needs(True, False)),
        (b"a: b\r\n\r\n", ["é@b.c"], Needs(False, True, True)),
    ],
)
def test_needs(message: bytes, addresses: list[str], needs: Needs) -> None:
    assert needs_of(message, addresses) == needs


@pytest.mark.parametrize(
    ("address", "expected"),
    [("a@münchen.test", "a@xn--mnchen-3ya.test"), ("é@münchen.test", "é@münchen.test"), ("", "")],
)
def test_addresses_on_the_wire(address: str, expected: str) -> None:
    assert address_for_wire(address) == expected


def test_replies_of_strangers() -> None:
    assert clean("a\r\nb\x00\x1b[1m\ud800c") == "a b [1m c"
    assert len(clean("x" * 5_000)) == 1_000
    assert status_of(550, "5.1.1 nobody") == "5.1.1"
    assert status_of(550, "4.1.1 it lies") == "5.0.0"
    assert status_of(450, "no code") == "4.0.0"
    assert status_of(354, "5.1.1 what") == "4.0.0"


# --- reports ---

REFUSED = Verdict(Fate.REFUSED, "5.1.1", "550 5.1.1 no such user", "mx.far.test")


def envelope(sender: str = "ann@x.test", *to: str) -> RelayEnvelope:
    return RelayEnvelope("1-2", sender, to or ("bob@far.test",), "redirect", 1, 1_800_000_000.0, 10)


def test_a_report_is_the_same_each_time_and_parses() -> None:
    failures = [Failure("bob@far.test", REFUSED)]
    head = b"Subject: x\r\nFrom: me\r\n\r\nsecret body"
    reports = {bounce(envelope(), failures, head, hostname="mail.test", at=1_800_000_100.5) for _ in range(2)}
    (raw,) = reports
    report = message_from_bytes(raw, policy=policy.default)
    assert report["Auto-Submitted"] == "auto-replied"
    assert report.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in report.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert b"secret body" not in raw
    assert b"Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n" in raw
    assert raw.count(b"\n") == raw.count(b"\r\n")


def test_a_report_about_utf8_addresses() -> None:
    raw = bounce(
        envelope("é@x.test"),
        [Failure("bób@far.test", REFUSED)],
        "Subject: é\r\n\r\n".encode(),
        hostname="m",
        at=1.0,
    )
    report = message_from_bytes(raw, policy=policy.default)
    types = [part.get_content_type() for part in report.iter_parts()]
    assert types[1:] == ["message/global-delivery-status", "message/global-headers"]
    coded = raw.partition(b"global-delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\n")[2]
    status = base64.b64decode(coded.partition(b"\r\n--")[0]).decode()
    assert "Final-Recipient: utf-8; bób@far.test\r\n" in status


def test_a_long_header_is_cut_at_a_line() -> None:
    head = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 100) for n in range(2_000))
    raw = bounce(envelope(), [Failure("bob@far.test", REFUSED)], head, hostname="m", at=1.0)
    assert len(raw) < 70_000
    last = raw.split(b"\r\n--=_")[-2].rstrip(b"\r\n").split(b"\r\n")[-1]
    assert last.endswith(b"y" * 100)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_the_body_never_goes_back_whatever_its_line_ends_are(end: bytes) -> None:
    message = end.join([b"Subject: x", b"From: ann@x.test", b"", b"secret", b"", b"more"])
    raw = bounce(envelope(), [Failure("bob@far.test", REFUSED)], message, hostname="m", at=1.0)
    assert b"text/rfc822-headers\r\n\r\nSubject: x\r\nFrom: ann@x.test\r\n\r\n--=_" in raw
    assert b"secret" not in raw
    assert b"more" not in raw


# --- http ---


class Target:
    def __init__(self, status: int = 200, reply: object = None) -> None:
        self.status, self.reply = status, reply
        self.requests: list[tuple[str, dict[str, object]]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.headers.get("Authorization", ""), json.loads(await request.read())))
        return web.Response(status=self.status, text="" if self.reply is None else json.dumps(self.reply))

    async def __aenter__(self) -> Target:
        app = web.Application()
        app.router.add_post("/relay", self.handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/relay"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def post(target: Target, message: bytes = b"Subject: x\r\n\r\n") -> list[Verdict]:
    transport = HttpTransport(target.url, "token", "relay.test", timeout_s=5.0)
    try:
        return await transport.send("s@x.test", ["a@x.test", "b@x.test"], message)
    finally:
        await transport.close()


async def test_http_takes_a_message() -> None:
    async with Target() as target:
        verdicts = await post(target)
        assert [each.fate for each in verdicts] == [Fate.TAKEN] * 2
        await post(target, b"\xff")
    (authorization, request), (_, binary) = target.requests
    assert authorization == "Bearer token"
    assert request == {
        "from": "s@x.test",
        "recipients": ["a@x.test", "b@x.test"],
        "message": "Subject: x\r\n\r\n",
    }
    assert binary["message_base64"] == "/w=="


async def test_http_results_of_single_recipients() -> None:
    reply = {"refused": {"a@x.test": "550 5.1.1 nobody"}, "deferred": {"b@x.test": "full"}}
    async with Target(202, reply) as target:
        first, second = await post(target)
    assert (first.fate, first.status, first.reply) == (Fate.REFUSED, "5.1.1", "550 5.1.1 nobody")
    assert (second.fate, second.status, second.reply) == (Fate.DEFERRED, "4.0.0", "full")


@pytest.mark.parametrize(("status", "code"), [(400, "5.6.0"), (413, "5.3.4"), (422, "5.6.0")])
async def test_http_refusals(status: int, code: str) -> None:
    async with Target(status) as target:
        verdicts = await post(target)
    assert [(each.fate, each.status) for each in verdicts] == [(Fate.REFUSED, code)] * 2


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 500, 503])
async def test_http_troubles_are_about_the_relay(status: int) -> None:
    async with Target(status) as target:
        with pytest.raises(RelayDown, match=str(status)):
            await post(target)
