"""The SMTP transport: connections that are kept, and one transaction on one of them (RFC 5321).

aiosmtplib speaks the commands; what their replies mean for a message is decided here. A reply about us and
not about the message (greeting, EHLO, TLS, AUTH, "log in first", any 421, silence) is ``RelayDown``:
nothing bounces because a password is wrong. Encryption that was asked for is never left out: a relay that
does not offer it, or cannot prove its name, gets no mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from storage.dsn import NO_REQUEST, DsnRequest
from storage.relayfile import Fate, Verdict

from .content import address_for_wire, dot_stuffed, mail_parameters, needs_of, rcpt_parameters, with_crlf
from .transport import RelayDown, verdict_of

if TYPE_CHECKING:
    from aiosmtplib import SMTP, SMTPResponse

T = TypeVar("T")

log = logging.getLogger("sora.relay")

MAX_IDLE_S: Final = 20.0  # servers close after some time, Postfix after 300 s under no load and 10 s under it
MAX_TRANSACTIONS: Final = 200  # on one connection, so that load moves when the relay's name has several hosts
_SLOWEST: Final = 16 * 1024  # octets a second: a large message goes through a thin line, too
# "Authentication required", "mechanism too weak", "credentials invalid", "encryption required": about us
_ABOUT_US: Final = frozenset({421, 530, 534, 535, 538})
# RFC 5321 §4.5.3.1.10: a server that takes no more recipients may say so, and means 452
_TOO_MANY: Final = 552


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for one step. RFC 5321 §4.5.3.2 wants minutes of a client; above all for the last reply, since
    who hangs up there may have the message taken, and sends it again."""

    connect_s: float = 30.0  # TCP, TLS and greeting, each
    command_s: float = 300.0
    data_s: float = 120.0
    end_of_data_s: float = 600.0  # besides the time that the octets take at the slowest (``_SLOWEST``)


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    host: str
    port: int
    helo: str
    tls_context: ssl.SSLContext | None = None  # None: without encryption
    use_starttls: bool = False  # else TLS from the first byte
    username: str = ""
    password: str = field(default="", repr=False)
    timeouts: Timeouts = Timeouts()


def tls_context(
    *, verify: bool, ca_file: str = "", cert_file: str = "", key_file: str = ""
) -> ssl.SSLContext:
    """``ca_file``: whom to trust instead of the system's authorities. Raises OSError: the files cannot be
    used."""
    context = ssl.create_default_context(cafile=ca_file or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        context.load_cert_chain(cert_file, key_file or None)
    return context


class _Stale(Exception):
    """A kept connection turned out to be closed before anything was said."""


@dataclass(slots=True)
class _Kept:
    smtp: SMTP
    idle_since: float = 0.0
    transactions: int = 0


class SmtpTransport:
    """``clock``: monotonic seconds."""

    def __init__(self, settings: SmtpSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        self._idle: list[_Kept] = []
        self.remote = settings.host
        self.connections = 0  # opened so far

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
    ) -> list[Verdict]:
        while True:
            kept = await self._take_idle() or await self._connect()
            try:
                return await self._send_on(kept, sender, recipients, message, dsn)
            except _Stale:
                continue
            except BaseException:
                kept.smtp.close()
                raise

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for kept in idle:
            await self._quit(kept)

    # --- connections ---

    async def _take_idle(self) -> _Kept | None:
        while self._idle:
            kept = self._idle.pop()
            is_fresh = self._clock() - kept.idle_since < MAX_IDLE_S
            if kept.smtp.is_connected and is_fresh and kept.transactions < MAX_TRANSACTIONS:
                return kept
            await self._quit(kept)
        return None

    def _give_back(self, kept: _Kept) -> None:
        """Does not wait: the message has been taken, and the caller must learn of it."""
        if kept.smtp.is_connected:
            kept.idle_since = self._clock()
            self._idle.append(kept)

    async def _quit(self, kept: _Kept) -> None:
        from aiosmtplib import SMTPException

        with contextlib.suppress(SMTPException, OSError):  # all mail of this connection is settled
            await kept.smtp.quit(timeout=min(5.0, self.settings.timeouts.command_s))
        kept.smtp.close()

    async def _connect(self) -> _Kept:
        from aiosmtplib import SMTP

        settings, timeouts = self.settings, self.settings.timeouts
        smtp = SMTP(
            hostname=settings.host,
            port=settings.port,
            local_hostname=settings.helo,
            use_tls=settings.tls_context is not None and not settings.use_starttls,
            start_tls=False,  # it is made below, in steps of its own
            tls_context=settings.tls_context,
            timeout=timeouts.connect_s,
        )
        try:
            await _about_us("connecting", "4.4.1", smtp.connect())
            await self._introduce(smtp)
        except BaseException:
            smtp.close()
            raise
        self.connections += 1
        return _Kept(smtp)

    async def _introduce(self, smtp: SMTP) -> None:
        settings, timeouts = self.settings, self.settings.timeouts
        await self._greet(smtp)
        if settings.tls_context is not None and settings.use_starttls:
            if not smtp.supports_extension("starttls"):
                raise RelayDown("4.7.10", "no STARTTLS is offered, and mail goes out encrypted only")
            await _about_us("STARTTLS", "4.7.10", smtp.starttls(timeout=timeouts.connect_s))
            await self._greet(smtp)  # RFC 3207 §4.2: what was said before does not count
        if settings.username:
            await self._authenticate(smtp)

    async def _greet(self, smtp: SMTP) -> None:
        await _about_us("EHLO", "4.3.0", smtp.ehlo(timeout=self.settings.timeouts.command_s))

    async def _authenticate(self, smtp: SMTP) -> None:
        settings = self.settings
        offered = smtp.supported_auth_methods
        user, password = settings.username.encode(), settings.password.encode()
        timeout_s = settings.timeouts.command_s
        if "plain" in offered:
            await _about_us("AUTH PLAIN", "4.7.8", smtp.auth_plain(user, password, timeout=timeout_s))
        elif "login" in offered:
            await _about_us("AUTH LOGIN", "4.7.8", smtp.auth_login(user, password, timeout=timeout_s))
        else:
            raise RelayDown("4.7.4", "the relay offers neither AUTH PLAIN nor AUTH LOGIN")

    # --- one transaction ---

    async def _send_on(
        self, kept: _Kept, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest
    ) -> list[Verdict]:
        smtp = kept.smtp
        data = await _prepared(message)
        addresses = [address_for_wire(each) for each in (sender, *recipients)]
        options = self._options(smtp, addresses, data)
        if isinstance(options, Verdict):
            self._give_back(kept)
            return [options] * len(recipients)
        if not smtp.supports_extension("dsn"):
            dsn = NO_REQUEST
        verdict = await self._mail(kept, addresses[0], [*options, *mail_parameters(dsn)])
        kept.transactions += 1
        if verdict.fate is Fate.TAKEN:
            wishes = [rcpt_parameters(dsn.of(at)) for at in range(len(recipients))]
            verdicts = [
                await self._rcpt(smtp, each, wish) for each, wish in zip(addresses[1:], wishes, strict=True)
            ]
        else:
            verdicts = [verdict] * len(recipients)
        if any(each.fate is Fate.TAKEN for each in verdicts):
            said = await self._data(smtp, data)
            said = replace(said, has_dsn=bool(dsn))
            verdicts = [said if each.fate is Fate.TAKEN else each for each in verdicts]
        if not any(each.fate is Fate.TAKEN for each in verdicts):
            await self._reset(smtp)
        self._give_back(kept)
        return verdicts

    def _options(self, smtp: SMTP, addresses: Sequence[str], data: bytes) -> list[bytes] | Verdict:
        """Parameters of MAIL; or why this relay cannot take the message as it is, which no retry changes."""
        needs = needs_of(data, addresses)
        has_smtputf8 = smtp.supports_extension("smtputf8")
        if needs.has_utf8_address and not has_smtputf8:
            return self._unfit("5.6.7", "not all addresses are ASCII, and the relay has no SMTPUTF8")
        if needs.is_8bit and not smtp.supports_extension("8bitmime"):
            return self._unfit("5.6.3", "the message has 8-bit content, and the relay has no 8BITMIME")
        options = []
        if smtp.supports_extension("size"):  # RFC 1870 §3
            limit = smtp.esmtp_extensions["size"].strip()
            if limit.isdecimal() and 0 < int(limit) < len(data):
                return self._unfit("5.3.4", f"the message has {len(data)} octets, the relay takes {limit}")
            options.append(b"SIZE=%d" % len(data))
        if needs.is_8bit:
            options.append(b"BODY=8BITMIME")
        # a header alone is no reason to send mail back: many write UTF-8 there
        if needs.is_utf8 and has_smtputf8:
            options.append(b"SMTPUTF8")
        return options

    def _unfit(self, status: str, why: str) -> Verdict:
        return Verdict(Fate.REFUSED, status, why, self.remote)

    async def _mail(self, kept: _Kept, sender: str, options: Sequence[bytes]) -> Verdict:
        try:
            return await self._command(kept.smtp, b"MAIL", b"FROM:<%s>" % sender.encode(), *options)
        except RelayDown as down:
            if kept.transactions:  # it has served before: the server was about to hang up
                log.debug("a kept connection was no good: %s", down)
                kept.smtp.close()
                raise _Stale from down
            raise

    async def _rcpt(self, smtp: SMTP, recipient: str, parameters: Sequence[bytes]) -> Verdict:
        verdict = await self._command(smtp, b"RCPT", b"TO:<%s>" % recipient.encode(), *parameters)
        if verdict.reply.startswith(f"{_TOO_MANY} "):
            return Verdict(Fate.DEFERRED, "4.5.3", verdict.reply, verdict.remote)
        return verdict

    async def _data(self, smtp: SMTP, data: bytes) -> Verdict:
        timeouts = self.settings.timeouts
        response = await _about_us("DATA", "4.4.2", smtp.execute_command(b"DATA", timeout=timeouts.data_s))
        if response.code != 354:
            verdict = self._verdict(response)
            if verdict.fate is Fate.TAKEN:  # a 2xx here is no yes
                return Verdict(Fate.DEFERRED, "4.5.0", verdict.reply, self.remote)
            return verdict
        return self._verdict(await _about_us("the message", "4.4.2", self._say(smtp, data)))

    async def _say(self, smtp: SMTP, data: bytes) -> SMTPResponse:
        assert smtp.protocol is not None
        # nothing may be awaited between the two: an answer that nobody waits for would be dropped
        smtp.protocol.write(dot_stuffed(data))
        timeout_s = self.settings.timeouts.end_of_data_s + len(data) / _SLOWEST
        return await smtp.protocol.read_response(timeout=timeout_s)

    async def _reset(self, smtp: SMTP) -> None:
        try:
            await self._command(smtp, b"RSET")
        except RelayDown:  # what was said of the message stands
            smtp.close()

    async def _command(self, smtp: SMTP, *words: bytes) -> Verdict:
        timeout_s = self.settings.timeouts.command_s
        doing = words[0].decode()
        return self._verdict(await _about_us(doing, "4.4.2", smtp.execute_command(*words, timeout=timeout_s)))

    def _verdict(self, response: SMTPResponse) -> Verdict:
        if response.code in _ABOUT_US:
            raise RelayDown("4.7.0", f"{response.code} {response.message}")
        if not 200 <= response.code < 600:
            raise RelayDown("4.5.0", f"no reply of SMTP: {response.code} {response.message}")
        return verdict_of(response.code, response.message, self.remote)


LARGE_BYTES: Final = 1024 * 1024


async def _prepared(message: bytes) -> bytes:
    return await asyncio.to_thread(with_crlf, message) if len(message) > LARGE_BYTES else with_crlf(message)


async def _about_us(doing: str, status: str, step: Awaitable[T]) -> T:
    """The one mapping of what the library and the system raise. Raises RelayDown."""
    from aiosmtplib import SMTPException, SMTPResponseException

    try:
        return await step
    except SMTPResponseException as error:
        raise RelayDown(status, f"{doing}: {error.code} {error.message}") from error
    except (SMTPException, OSError, ValueError) as error:
        raise RelayDown(status, f"{doing}: {error or type(error).__name__}") from error
