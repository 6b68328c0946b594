"""The relay's SMTP against a real Postfix: encryption, login, extensions, answers for each recipient."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protocols.relay.smtp import SmtpSettings, SmtpTransport, tls_context
from protocols.relay.transport import RelayDown
from storage.relayfile import Fate, Verdict
from tests.support.authority import Authority
from tests.support.ipv6 import needs_ipv6
from tests.support.nodeprocess import public_directory
from tests.support.ports import LOOPBACK6
from tests.support.postfix import Mail, Postfix, is_installed

MESSAGE = b"From: ann@near.test\r\nSubject: x\r\n\r\n.dot\r\nend\r\n"
QUIET = "quiet@near.test"  # whom the MTA must never hear of
LOGIN = {"relay@near.test": "sécret word"}
ONLY_WITH_LOGIN = {"smtpd_relay_restrictions": "permit_sasl_authenticated, reject", "mynetworks": "192.0.2.1"}


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    directory = public_directory("authority-")
    yield Authority(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def mta(authority: Authority) -> Iterator[Postfix]:
    """One for all tests; each sets what it needs and it is as before afterwards."""
    if not is_installed():
        pytest.skip("needs root and Debian's postfix; .ci/run installs it")
    with Postfix(tls=authority.issue("localhost"), logins=LOGIN) as mta:
        yield mta


@pytest.fixture(autouse=True)
def as_before(mta: Postfix) -> Iterator[None]:
    before = dict(vars(mta))
    yield
    changed = {name: value for name, value in before.items() if vars(mta)[name] != value}
    if changed:
        vars(mta).update(changed)
        mta.reload()


def settings(mta: Postfix, authority: Authority) -> SmtpSettings:
    """STARTTLS, verified, without a login."""
    context = tls_context(verify=True, ca_file=str(authority.file))
    return SmtpSettings("localhost", mta.port, "helo.near.test", tls_context=context, use_starttls=True)


async def send(
    settings: SmtpSettings,
    to: Sequence[str] = ("bob@far.test",),
    message: bytes = MESSAGE,
    sender: str = "ann@near.test",
) -> list[Verdict]:
    relay = SmtpTransport(settings)
    try:
        return await relay.send(sender, to, message)
    finally:
        await relay.close()


def fates(verdicts: Sequence[Verdict]) -> list[Fate]:
    return [each.fate for each in verdicts]


def arrived(mta: Postfix, to: str) -> Mail:
    mta.wait_until_empty()
    (mail,) = mta.mails_to(to)
    return mail


# --- encryption ---


@pytest.mark.parametrize("is_implicit", [False, True])
async def test_verified_encryption(mta: Postfix, authority: Authority, is_implicit: bool) -> None:
    to = f"tls{is_implicit}@far.test"
    port = mta.tls_port if is_implicit else mta.port
    made = replace(settings(mta, authority), port=port, use_starttls=not is_implicit)
    (verdict,) = await send(made, [to])
    assert (verdict.fate, verdict.status) == (Fate.TAKEN, "2.0.0")
    mail = arrived(mta, to)
    assert b"from helo.near.test" in mail.content
    assert b"using TLSv1.3" in mail.content
    assert mail.sender == "ann@near.test"
    assert mail.content.endswith(b"\n\n.dot\nend\n")


@needs_ipv6
async def test_over_ipv6(mta: Postfix, authority: Authority) -> None:
    """An address literal, and the certificate has to name it."""
    mta.tls = authority.issue(LOOPBACK6)
    mta.reload()
    made = replace(settings(mta, authority), host=LOOPBACK6, port=mta.port6)
    assert fates(await send(made, ["six@far.test"])) == [Fate.TAKEN]
    assert arrived(mta, "six@far.test")


@pytest.mark.parametrize("is_implicit", [False, True])
@pytest.mark.parametrize("fault", ["name", "expired", "unknown authority"])
async def test_who_cannot_prove_its_name_gets_nothing(
    mta: Postfix, authority: Authority, fault: str, is_implicit: bool
) -> None:
    other = Authority(authority.directory, "other authority")
    if fault == "name":
        mta.tls = authority.issue("elsewhere.test")
    elif fault == "expired":
        mta.tls = authority.issue("localhost", days=-1)
    else:
        mta.tls = other.issue("localhost", days=29)
    mta.reload()
    port = mta.tls_port if is_implicit else mta.port
    made = replace(
        settings(mta, authority), port=port, use_starttls=not is_implicit, username=QUIET, password="y"
    )
    with pytest.raises(RelayDown, match="certificate"):
        await send(made, sender=QUIET)
    assert QUIET not in mta.log


async def test_an_unknown_authority_is_fine_without_verification(mta: Postfix) -> None:
    made = SmtpSettings(
        "127.0.0.1", mta.port, "me.test", tls_context=tls_context(verify=False), use_starttls=True
    )
    assert fates(await send(made, ["unverified@far.test"])) == [Fate.TAKEN]


async def test_no_starttls_no_mail(mta: Postfix, authority: Authority) -> None:
    mta.tls = None
    mta.reload()
    made = replace(settings(mta, authority), username=QUIET, password="y")
    with pytest.raises(RelayDown, match="no STARTTLS"):
        await send(made, sender=QUIET)
    assert QUIET not in mta.log


async def test_starttls_that_is_refused(mta: Postfix, authority: Authority) -> None:
    """Offered, then 454: no certificate to show."""
    mta.parameters = {"smtpd_tls_cert_file": "/nonexistent", "smtpd_tls_key_file": "/nonexistent"}
    mta.reload()
    with pytest.raises(RelayDown, match="STARTTLS"):
        await send(settings(mta, authority), sender=QUIET)
    assert QUIET not in mta.log


# --- who we are ---


@pytest.mark.parametrize("mechanism", ["plain", "login"])
async def test_login(mta: Postfix, authority: Authority, mechanism: str) -> None:
    mta.parameters = {
        **ONLY_WITH_LOGIN,
        "smtpd_tls_auth_only": "yes",
        "smtpd_sasl_mechanism_filter": mechanism,
    }
    mta.reload()
    made = settings(mta, authority)
    to = f"{mechanism}@far.test"
    assert fates(await send(made, [to])) == [Fate.REFUSED]  # 554 5.7.1 Relay access denied
    ((user, password),) = LOGIN.items()
    assert fates(await send(replace(made, username=user, password=password), [to])) == [Fate.TAKEN]
    assert f"Authenticated sender: {user}".encode() in arrived(mta, to).content
    mta.wait_for_log(f"sasl_method={mechanism.upper()}, sasl_username={user}")


async def test_a_wrong_password_is_no_fault_of_the_mail(mta: Postfix, authority: Authority) -> None:
    made = replace(settings(mta, authority), username=next(iter(LOGIN)), password="wrong")
    with pytest.raises(RelayDown, match="535"):
        await send(made)


async def test_a_login_that_is_missing_is_no_fault_of_the_mail(mta: Postfix, authority: Authority) -> None:
    mta.parameters = {"smtpd_tls_security_level": "encrypt"}
    mta.reload()
    plain = replace(settings(mta, authority), tls_context=None)
    with pytest.raises(RelayDown, match="530"):  # Must issue a STARTTLS command first
        await send(plain)


async def test_client_certificates(mta: Postfix, authority: Authority) -> None:
    known, unknown = authority.issue("client.near.test"), authority.issue("other.near.test")
    allowed = mta.directory / "certificates"
    allowed.write_text(f"{known.fingerprint} OK\n")
    mta.parameters = {
        "smtpd_tls_ask_ccert": "yes",
        "smtpd_tls_CAfile": str(authority.file),
        "smtpd_tls_fingerprint_digest": "sha256",
        "smtpd_relay_restrictions": f"check_ccert_access texthash:{allowed}, reject",
    }
    mta.reload()
    made = settings(mta, authority)
    outcomes = []
    for pair in (known, unknown):
        context = tls_context(
            verify=True,
            ca_file=str(authority.file),
            cert_file=str(pair.certificate),
            key_file=str(pair.key),
        )
        outcomes += fates(await send(replace(made, tls_context=context), ["mutual@far.test"]))
    outcomes += fates(await send(made, ["mutual@far.test"]))
    assert outcomes == [Fate.TAKEN, Fate.REFUSED, Fate.REFUSED]
    assert b'Client CN "client.near.test"' in arrived(mta, "mutual@far.test").content


async def test_a_client_certificate_that_is_required_and_missing(mta: Postfix, authority: Authority) -> None:
    mta.parameters = {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_req_ccert": "yes",
        "smtpd_tls_CAfile": str(authority.file),
    }
    mta.reload()
    with pytest.raises(RelayDown):
        await send(settings(mta, authority))


async def test_a_name_that_is_refused(mta: Postfix, authority: Authority) -> None:
    """About us: nothing of the mail's fault, and it bounces nothing."""
    mta.parameters = {
        "smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
        "smtpd_delay_reject": "no",
        "smtpd_helo_required": "yes",
    }
    mta.reload()
    with pytest.raises(RelayDown, match="504"):
        await send(replace(settings(mta, authority), helo="nodots"))


# --- what the mail needs ---


async def test_octets_and_utf8_addresses_arrive(mta: Postfix, authority: Authority) -> None:
    body = "Subject: Grüße\r\n\r\nnaïve\r\n".encode()
    verdicts = await send(settings(mta, authority), ["zoë@far.test"], body, sender="ännchen@near.test")
    assert fates(verdicts) == [Fate.TAKEN]
    mail = arrived(mta, "zoë@far.test")
    assert "Subject: Grüße".encode() in mail.content
    assert mail.content.endswith("naïve\n".encode())
    assert mail.sender == "ännchen@near.test"
    assert b"with UTF8SMTPS" in mail.content


@pytest.mark.parametrize(
    ("keyword", "sender", "message", "status"),
    [
        ("8bitmime", "s@near.test", b"Subject: x\r\n\r\n\xe9\r\n", "5.6.3"),
        ("smtputf8", "ännchen@near.test", b"Subject: x\r\n\r\n", "5.6.7"),
    ],
)
async def test_what_it_cannot_take_unharmed_is_reported(
    mta: Postfix, authority: Authority, keyword: str, sender: str, message: bytes, status: str
) -> None:
    mta.parameters = {"smtpd_discard_ehlo_keywords": keyword}
    mta.reload()
    (verdict,) = await send(settings(mta, authority), message=message, sender=sender)
    assert (verdict.fate, verdict.status) == (Fate.REFUSED, status)


async def test_a_header_in_utf8_arrives_without_smtputf8(mta: Postfix, authority: Authority) -> None:
    mta.parameters = {"smtpd_discard_ehlo_keywords": "smtputf8"}
    mta.reload()
    message = "Subject: Grüße\r\n\r\nhello\r\n".encode()
    (verdict,) = await send(settings(mta, authority), ["plainly@far.test"], message)
    assert verdict.fate is Fate.TAKEN
    assert "Subject: Grüße".encode() in arrived(mta, "plainly@far.test").content


@pytest.mark.parametrize("keyword", ["", "size"])
async def test_too_large(mta: Postfix, authority: Authority, keyword: str) -> None:
    """By the size that is announced, or, where none is, by the answer at the end."""
    mta.parameters = {"message_size_limit": "2000", "smtpd_discard_ehlo_keywords": keyword}
    mta.reload()
    (verdict,) = await send(settings(mta, authority), message=b"Subject: x\r\n\r\n" + b"x\r\n" * 1000)
    assert (verdict.fate, verdict.status) == (Fate.REFUSED, "5.3.4")


@pytest.mark.parametrize("keywords", ["", "pipelining, dsn, chunking, enhancedstatuscodes, size"])
async def test_each_recipient_has_its_own_answer(mta: Postfix, authority: Authority, keywords: str) -> None:
    mta.parameters = {"smtpd_discard_ehlo_keywords": keywords}
    mta.replies = {"gone@far.test": "550 5.1.1 gone", "full@far.test": "452 4.2.2 full"}
    mta.reload()
    mark = "short" if keywords else "whole"
    to = [f"a{mark}@far.test", "gone@far.test", f"b{mark}@far.test", "full@far.test"]
    verdicts = await send(settings(mta, authority), to)
    assert fates(verdicts) == [Fate.TAKEN, Fate.REFUSED, Fate.TAKEN, Fate.DEFERRED]
    assert [each.status for each in verdicts[1::2]] == ["5.1.1", "4.2.2"]
    mta.wait_until_empty()
    assert [len(mta.mails_to(each)) for each in to] == [1, 0, 1, 0]


async def test_one_connection_for_many(mta: Postfix, authority: Authority) -> None:
    before = mta.log.count("connect from")
    relay = SmtpTransport(settings(mta, authority))
    for n in range(20):
        assert fates(await relay.send("", [f"many{n}@far.test"], MESSAGE)) == [Fate.TAKEN]
    assert relay.connections == 1
    await relay.close()
    assert mta.log.count("connect from") <= before + 2  # "connect" and "disconnect"


async def test_more_recipients_than_it_takes_at_once(mta: Postfix, authority: Authority) -> None:
    mta.parameters = {"smtpd_recipient_limit": "10"}
    mta.reload()
    to = [f"crowd{n}@far.test" for n in range(12)]
    verdicts = await send(settings(mta, authority), to)
    assert fates(verdicts) == [Fate.TAKEN] * 10 + [Fate.DEFERRED] * 2  # 452 4.5.3: the next transaction


def test_files_of_authorities_are_needed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        tls_context(verify=True, ca_file=str(tmp_path / "nothing"))


# --- a box on the way ---


@asynccontextmanager
async def box(port: int, change: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Passes everything on, what the server says changed; its port, and what the client has said."""
    heard: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, of_server: bool) -> None:
        while data := await reader.read(65536):
            if not of_server:
                heard.append(data)
            writer.write(change(data) if of_server else data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            pump(reader, ours, of_server=False), pump(theirs, writer, of_server=True), return_exceptions=True
        )

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"250-STARTTLS\r\n", b"250-XXXXXXXA\r\n"), (b"250-STARTTLS\r\n", b""), (b"220 2.0.0", b"454 4.7.0")],
    ids=["masked", "removed", "refused"],
)
async def test_a_box_that_takes_encryption_away(
    mta: Postfix, authority: Authority, before: bytes, after: bytes
) -> None:
    """As firewalls and thieves do: neither mail nor password goes out."""
    async with box(mta.port, lambda data: data.replace(before, after)) as (port, heard):
        made = replace(settings(mta, authority), port=port, username=QUIET, password="secret")
        with pytest.raises(RelayDown, match="STARTTLS"):
            await send(made, sender=QUIET)
    assert b"".join(heard).split(b"\r\n")[0] == b"EHLO helo.near.test"
    assert not any(word in b"".join(heard) for word in (b"AUTH", b"MAIL", b"Subject", QUIET.encode()))


async def test_a_box_that_only_listens_hears_nothing(mta: Postfix, authority: Authority) -> None:
    ((user, password),) = LOGIN.items()
    async with box(mta.port, lambda data: data) as (port, heard):
        made = replace(settings(mta, authority), port=port, username=user, password=password)
        assert fates(await send(made, ["listened@far.test"])) == [Fate.TAKEN]
    said = b"".join(heard)
    assert said.startswith(b"EHLO helo.near.test\r\nSTARTTLS\r\n")
    assert not any(word in said for word in (b"AUTH", b"MAIL FROM", b"Subject", b"listened"))
