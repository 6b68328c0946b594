"""Each step of an SMTP conversation, and everything a relay may do there: what becomes of the mail."""

from __future__ import annotations

import itertools
import socket
from typing import Final

import pytest

from protocols.relay.smtp import SmtpSettings, SmtpTransport, Timeouts
from protocols.relay.transport import RelayDown
from tests.support.certificates import Contexts, localhost_contexts
from tests.support.smtpserver import DROP, HANG, SmtpServer

TO = ("a@x.test", "b@x.test")
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
# so short that hanging is noticed soon, so long that nothing else is taken for it
TIMEOUTS = Timeouts(connect_s=30.0, command_s=30.0, data_s=30.0, end_of_data_s=30.0)
IMPATIENT = Timeouts(connect_s=0.3, command_s=0.3, data_s=0.3, end_of_data_s=0.3)

DOWN: Final = "down"  # about the relay: nothing is said of the mail, and it is tried again
LATER: Final = "deferred"
NEVER: Final = "refused"
TAKEN: Final = "taken"

BEHAVIOURS: Final = {
    "4xx": "451 4.3.0 not now",
    "5xx": "554 5.3.0 no",
    "421": "421 4.3.2 closing",
    "garbage": "\x00\xff what?",
    "a number too many": "9999 what?",
    "hang": HANG,
    "cut": DROP,
}
# of the steps in which a message is spoken of, 4xx and 5xx are about it; all else is about the relay
OF_THE_MESSAGE: Final = ("MAIL", "RCPT", "DATA", ".")
STEPS: Final = ("greeting", "EHLO", "STARTTLS", "AUTH", *OF_THE_MESSAGE, "QUIT")


def expected(step: str, behaviour: str) -> str:
    if step == "QUIT":
        return TAKEN
    if step in OF_THE_MESSAGE and behaviour in ("4xx", "5xx"):
        return LATER if behaviour == "4xx" else NEVER
    return DOWN


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return localhost_contexts(tmp_path_factory.mktemp("tls"))


def transport(server: SmtpServer, contexts: Contexts, timeouts: Timeouts) -> SmtpTransport:
    """As a careful operator sets it: encrypted, verified, logged in."""
    return SmtpTransport(
        SmtpSettings(
            "localhost",
            server.port,
            "me.test",
            tls_context=contexts[1],
            use_starttls=True,
            username="me",
            password="secret",
            timeouts=timeouts,
        )
    )


def server(contexts: Contexts, says: dict[str, str]) -> SmtpServer:
    return SmtpServer(says, context=contexts[0], has_starttls=True, login=("me", "secret"))


async def outcome(relay: SmtpTransport) -> set[str]:
    try:
        return {each.fate.value for each in await relay.send("s@y.test", TO, MESSAGE)}
    except RelayDown as down:
        return {DOWN if down.reply and down.status.startswith("4.") else repr(down)}


@pytest.mark.parametrize(("step", "behaviour"), list(itertools.product(STEPS, BEHAVIOURS)))
async def test_a_step(contexts: Contexts, step: str, behaviour: str) -> None:
    async with server(contexts, {step: BEHAVIOURS[behaviour]}) as remote:
        # for QUIT it has patience of its own, and what comes before must not take too long
        is_impatient = behaviour == "hang" and step != "QUIT"
        relay = transport(remote, contexts, IMPATIENT if is_impatient else TIMEOUTS)
        fates = await outcome(relay)
        await relay.close()
        assert fates == {expected(step, behaviour)}
        assert len(remote.accepted) == (fates == {TAKEN})
        if step in ("greeting", "EHLO", "STARTTLS", "AUTH"):
            assert not any(each.startswith("MAIL") for each in remote.commands)
        if step in ("greeting", "EHLO", "STARTTLS"):
            assert not any(each.startswith("AUTH") for each in remote.commands)


async def test_what_the_relay_took_and_did_not_confirm_is_sent_again(contexts: Contexts) -> None:
    """The one way to a second copy: whether it took the message before the line broke, nobody can know."""
    async with server(contexts, {".": DROP}) as remote:
        relay = transport(remote, contexts, TIMEOUTS)
        with pytest.raises(RelayDown, match="the message"):
            await relay.send("s@y.test", TO, MESSAGE)
        remote.says.clear()
        remote.has_starttls = True
        assert {each.fate.value for each in await relay.send("s@y.test", TO, MESSAGE)} == {TAKEN}
        await relay.close()


async def test_what_a_stranger_says_before_encryption_does_not_count(contexts: Contexts) -> None:
    """CVE-2011-0411 from the other side: answers that were waiting when TLS began are thrown away."""
    async with server(contexts, {}) as remote:
        remote.injects = b"250-mx.test\r\n250 AUTH PLAIN LOGIN\r\n235 2.7.0 ok\r\n250 2.1.0 ok\r\n"
        remote.login = None  # nothing inside offers a login
        relay = transport(remote, contexts, TIMEOUTS)
        with pytest.raises(RelayDown):
            await relay.send("s@y.test", TO, MESSAGE)
        assert not any(each.startswith(("AUTH", "MAIL")) for each in remote.commands)
        await relay.close()


async def test_starttls_that_is_stripped(contexts: Contexts) -> None:
    """A box on the way takes the word out of the answer to EHLO, and answers the command itself."""
    async with server(contexts, {"EHLO": "250-mx.test\r\n250 AUTH PLAIN LOGIN"}) as remote:
        relay = transport(remote, contexts, TIMEOUTS)
        with pytest.raises(RelayDown, match="no STARTTLS"):
            await relay.send("s@y.test", TO, MESSAGE)
        assert [each.split(" ")[0] for each in remote.commands] == ["EHLO"]
        await relay.close()


async def test_a_reply_without_end(contexts: Contexts) -> None:
    endless = "\r\n".join(["250-more and more"] * 10_000)
    async with server(contexts, {"MAIL": endless}) as remote:
        relay = transport(remote, contexts, TIMEOUTS)
        with pytest.raises(RelayDown):
            await relay.send("s@y.test", TO, MESSAGE)
        await relay.close()


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL])
async def test_a_name_that_has_no_address(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_arguments: object, **_named: object) -> object:
        raise socket.gaierror(code, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    relay = SmtpTransport(SmtpSettings("mx.test", 25, "me.test", timeouts=TIMEOUTS))
    with pytest.raises(RelayDown, match="connecting"):
        await relay.send("s@y.test", TO, MESSAGE)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "bad..test"])
async def test_what_is_no_name(host: str) -> None:
    relay = SmtpTransport(SmtpSettings(host, 25, "me.test", timeouts=TIMEOUTS))
    with pytest.raises(RelayDown, match="connecting"):
        await relay.send("s@y.test", TO, MESSAGE)
