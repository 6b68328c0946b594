"""The SMTP transport against a server that refuses, hangs or drops at each step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiosmtplib import SMTPResponse
from aiosmtplib.protocol import SMTPProtocol

from protocols.relay.smtp import SmtpSettings, SmtpTransport, Timeouts, tls_context
from protocols.relay.transport import RelayDown
from storage.relayfile import Fate, Verdict
from tests.support.certificates import Contexts, localhost_contexts
from tests.support.smtpserver import DROP, HANG, Accepted, SmtpServer

MESSAGE = b"Subject: x\r\n\r\n.dot\r\nend\r\n"
TO = ("a@x.test", "b@x.test")
PATIENT = Timeouts(connect_s=30.0, command_s=30.0, data_s=30.0, end_of_data_s=30.0)
SHORT = Timeouts(connect_s=0.2, command_s=0.2, data_s=0.2, end_of_data_s=0.2)  # where something hangs


def transport(server: SmtpServer, **changes: object) -> SmtpTransport:
    settings = SmtpSettings("127.0.0.1", server.port, "me.test", timeouts=PATIENT)
    return SmtpTransport(replace(settings, **changes))  # type: ignore[arg-type]


async def send(server: SmtpServer, **changes: object) -> list[Verdict]:
    relay = transport(server, **changes)
    try:
        return await relay.send("s@y.test", TO, MESSAGE)
    finally:
        await relay.close()


def fates(verdicts: list[Verdict]) -> str:
    return "".join({Fate.TAKEN: "t", Fate.REFUSED: "r", Fate.DEFERRED: "d"}[each.fate] for each in verdicts)


async def test_a_message_arrives_as_it_is() -> None:
    async with SmtpServer() as server:
        verdicts = await send(server)
        assert server.accepted == [Accepted("s@y.test", list(TO), MESSAGE.replace(b"\r\n.", b"\r\n.."))]
    assert fates(verdicts) == "tt"
    assert verdicts[0] == Verdict(Fate.TAKEN, "2.0.0", "250 2.0.0 queued", "127.0.0.1")
    assert f"MAIL FROM:<s@y.test> SIZE={len(MESSAGE)}" in server.commands


@pytest.mark.parametrize(
    ("says", "expected", "status"),
    [
        ({"MAIL": "550 5.7.1 not you"}, "rr", "5.7.1"),
        ({"MAIL": "451 4.3.0 later"}, "dd", "4.3.0"),
        ({"RCPT": "550 5.1.1 nobody"}, "rr", "5.1.1"),
        ({"RCPT": "450 busy"}, "dd", "4.0.0"),
        ({"RCPT:a@x.test": "550 5.1.1 nobody"}, "rt", "5.1.1"),
        ({"RCPT:a@x.test": "452 4.2.2 full", "RCPT:b@x.test": "553 5.1.3 bad"}, "dr", "4.2.2"),
        ({"RCPT:a@x.test": "552 5.5.3 too many"}, "dt", "4.5.3"),
        ({"DATA": "554 5.5.1 none"}, "rr", "5.5.1"),
        ({"DATA": "451 4.3.2 later"}, "dd", "4.3.2"),
        ({"DATA": "250 what"}, "dd", "4.5.0"),
        ({".": "554 5.7.1 spam"}, "rr", "5.7.1"),
        ({".": "451 4.7.1 greylisted"}, "dd", "4.7.1"),
        ({"RCPT:a@x.test": "550 5.1.1 nobody", ".": "451 4.7.1 later"}, "rd", "5.1.1"),
        ({".": "554 2.0.0 a code that lies"}, "rr", "5.0.0"),
        ({"MAIL": "550 5.7.1 not you", "RSET": "421 bye"}, "rr", "5.7.1"),
        ({"MAIL": "550 5.7.1 not you", "RSET": DROP}, "rr", "5.7.1"),
    ],
)
async def test_replies_about_the_message(says: dict[str, str], expected: str, status: str) -> None:
    async with SmtpServer(says) as server:
        verdicts = await send(server)
    assert fates(verdicts) == expected
    assert verdicts[0].status == status
    assert [each.recipients for each in server.accepted] == (
        [[to for to, fate in zip(TO, expected, strict=True) if fate == "t"]] if "t" in expected else []
    )


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "RCPT:b@x.test", "DATA", "."])
@pytest.mark.parametrize("what", ["421 4.3.2 shutting down", DROP, HANG])
async def test_what_is_about_the_relay(step: str, what: str) -> None:
    timeouts = SHORT if what is HANG else PATIENT
    async with SmtpServer({step: what}) as server:
        with pytest.raises(RelayDown):
            await send(server, timeouts=timeouts)
    assert server.accepted == []


@pytest.mark.parametrize(
    "says",
    [
        {"greeting": "554 5.3.2 no service"},
        {"EHLO": "502 5.5.1 no"},
        {"MAIL": "530 5.7.0 authentication required"},
        {"RCPT": "530 5.7.0 STARTTLS first"},
    ],
)
async def test_a_final_refusal_of_us_is_none_of_the_message(says: dict[str, str]) -> None:
    async with SmtpServer(says) as server:
        with pytest.raises(RelayDown):
            await send(server)


async def test_a_large_message_has_the_time_that_a_thin_line_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []
    real = SMTPProtocol.read_response

    async def read_response(protocol: SMTPProtocol, timeout: float | None = None) -> SMTPResponse:
        waited.append(timeout)
        return await real(protocol, timeout)

    monkeypatch.setattr(SMTPProtocol, "read_response", read_response)
    async with SmtpServer() as server:
        relay = transport(server)
        message = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 800
        assert [each.fate for each in await relay.send("s@y.test", ["a@x.test"], message)] == [Fate.TAKEN]
        await relay.close()
    most = max(each or 0.0 for each in waited)
    assert most > relay.settings.timeouts.end_of_data_s + len(message) / 20_000


async def test_nobody_listens() -> None:
    async with SmtpServer() as server:
        port = server.port
    with pytest.raises(RelayDown):
        await SmtpTransport(SmtpSettings("127.0.0.1", port, "me.test")).send("", TO, MESSAGE)


async def test_connections_are_kept_and_replaced_when_they_are_closed() -> None:
    async with SmtpServer() as server:
        relay = transport(server)
        await relay.send("", TO, MESSAGE)
        await relay.send("", TO, MESSAGE)
        assert server.connections == 1
        server.says["MAIL"] = "421 too long idle"
        with pytest.raises(RelayDown):  # also on the new connection
            await relay.send("", TO, MESSAGE)
        assert server.connections == 2
        del server.says["MAIL"]
        assert fates(await relay.send("", TO, MESSAGE)) == "tt"
        await relay.close()
    assert len(server.accepted) == 3


# --- what the message needs ---


@pytest.mark.parametrize(
    ("extensions", "sender", "message", "status"),
    [
        ((), "s@y.test", "Subject: x\r\n\r\né\r\n".encode(), "5.6.3"),
        (("8BITMIME",), "é@y.test", MESSAGE, "5.6.7"),
        (("SIZE 10",), "s@y.test", MESSAGE, "5.3.4"),
    ],
)
async def test_what_the_relay_cannot_take_is_not_sent(
    extensions: tuple[str, ...], sender: str, message: bytes, status: str
) -> None:
    async with SmtpServer(extensions=extensions) as server:
        relay = transport(server)
        verdicts = await relay.send(sender, TO, message)
        await relay.close()
    assert [(each.fate, each.status) for each in verdicts] == [(Fate.REFUSED, status)] * 2
    assert not any(each.startswith("MAIL") for each in server.commands)


@pytest.mark.parametrize(
    ("sender", "message", "options"),
    [
        ("s@y.test", "Subject: x\r\n\r\né\r\n".encode(), " BODY=8BITMIME"),
        ("é@y.test", b"Subject: x\r\n\r\n", " SMTPUTF8"),
        ("s@y.test", "Subject: é\r\n\r\n".encode(), " BODY=8BITMIME SMTPUTF8"),
        ("s@y.test", b"Subject: \xe9\r\n\r\n", " BODY=8BITMIME"),
        ("s@münchen.test", b"Subject: x\r\n\r\n", ""),
    ],
)
async def test_options_of_mail(sender: str, message: bytes, options: str) -> None:
    async with SmtpServer() as server:
        relay = transport(server)
        await relay.send(sender, TO, message)
        await relay.close()
    said = next(each for each in server.commands if each.startswith("MAIL"))
    assert said.partition(f" SIZE={len(message)}")[2] == options


async def test_a_header_in_utf8_goes_also_where_there_is_no_smtputf8() -> None:
    """As it came: many write UTF-8 there, and their mail is read everywhere."""
    message = "Subject: é\r\n\r\n".encode()
    async with SmtpServer(extensions=("8BITMIME",)) as server:
        relay = transport(server)
        assert fates(await relay.send("s@y.test", TO, message)) == "tt"
        await relay.close()
    assert [each for each in server.commands if each.startswith("MAIL")] == [
        "MAIL FROM:<s@y.test> BODY=8BITMIME"
    ]
    assert [each.message for each in server.accepted] == [message]


# --- encryption and login ---


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return localhost_contexts(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("has_starttls", [False, True])
async def test_tls(contexts: Contexts, has_starttls: bool) -> None:
    of_server, trusting = contexts
    for context, host in ((tls_context(verify=False), "127.0.0.1"), (trusting, "localhost")):
        async with SmtpServer(context=of_server, has_starttls=has_starttls) as server:
            verdicts = await send(server, tls_context=context, use_starttls=has_starttls, host=host)
            assert fates(verdicts) == "tt"


@pytest.mark.parametrize("has_starttls", [False, True])
async def test_who_cannot_prove_its_name_gets_nothing(contexts: Contexts, has_starttls: bool) -> None:
    of_server, trusting = contexts
    for context, host in ((tls_context(verify=True), "localhost"), (trusting, "127.0.0.1")):
        async with SmtpServer(context=of_server, has_starttls=has_starttls) as server:
            with pytest.raises(RelayDown, match="certificate"):
                await send(server, tls_context=context, use_starttls=has_starttls, host=host)
            assert not any(each.startswith(("MAIL", "AUTH")) for each in server.commands)


async def test_encryption_is_never_left_out() -> None:
    async with SmtpServer() as server:
        with pytest.raises(RelayDown, match="no STARTTLS"):
            await send(server, tls_context=tls_context(verify=False), use_starttls=True)
        assert server.commands == ["EHLO me.test", *server.commands[1:]]
        assert not any(each.startswith(("MAIL", "AUTH")) for each in server.commands)


@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN", "CRAM-MD5 PLAIN"])
async def test_login(mechanisms: str) -> None:
    async with SmtpServer(login=("me", "sécret"), mechanisms=mechanisms) as server:
        assert fates(await send(server, username="me", password="sécret")) == "tt"
        assert server.authenticated == 1


@pytest.mark.parametrize(
    ("login", "mechanisms"), [(("me", "other"), "PLAIN"), (("me", "secret"), "CRAM-MD5"), (None, "")]
)
async def test_login_that_fails_is_about_the_relay(login: tuple[str, str] | None, mechanisms: str) -> None:
    async with SmtpServer(login=login, mechanisms=mechanisms) as server:
        with pytest.raises(RelayDown):
            await send(server, username="me", password="secret")
        assert not any(each.startswith("MAIL") for each in server.commands)
