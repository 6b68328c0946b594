"""STARTTLS, LOGIN and AUTHENTICATE.

Every way in ends in ``_authenticate``, so that all failures look and cost the same.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from protocols import sasl
from protocols.errors import AuthenticationFailed, AuthenticationUnavailable
from protocols.starttls import Obstacle, obstacle

from .. import responses
from ..grammar import Cursor
from ..registry import (
    NOT_AUTHENTICATED,
    AwaitLine,
    Bad,
    Command,
    No,
    Ok,
    Outcome,
    ParseContext,
    parse_nothing,
)

if TYPE_CHECKING:
    from ..session import ImapSession

# Beyond this somebody is guessing; a new connection passes the listener's limits again.
MAX_FAILED_LOGINS: Final = 5

TLS_REFUSALS: Final[Mapping[Obstacle, Bad]] = {
    Obstacle.HAS_TLS: Bad("TLS is already on"),
    Obstacle.NO_TLS: Bad("TLS is not available"),
    Obstacle.EARLY_INPUT: Bad("Nothing may follow STARTTLS before TLS is on"),
}
# RFC 5530 §3
NEEDS_TLS: Final = No("A password may only be sent over TLS", b"PRIVACYREQUIRED")
FAILED: Final = No("Authentication failed", b"AUTHENTICATIONFAILED")
UNAVAILABLE: Final = No("Temporarily unavailable, please try again later", b"UNAVAILABLE")


# --- STARTTLS ---


async def run_starttls(session: ImapSession, _args: None) -> Outcome:
    found = obstacle(session.policy, session.connection)
    if found is not None:
        session.is_leaving = found is Obstacle.EARLY_INPUT
        return TLS_REFUSALS[found]
    session.reply(Ok("Begin TLS now"))
    await session.connection.start_tls()
    session.learn(ja4=session.connection.peer.ja4)
    return None


# --- LOGIN ---


@dataclass(frozen=True, slots=True)
class LoginArgs:
    username: bytes
    password: bytes = field(repr=False)


def parse_login(cursor: Cursor, _context: ParseContext) -> LoginArgs:
    cursor.space()
    username = cursor.astring()
    cursor.space()
    password = cursor.astring()
    cursor.end()
    return LoginArgs(username, password)


def run_login(session: ImapSession, args: LoginArgs) -> Outcome | Awaitable[Outcome]:
    if not session.may_authenticate:
        return NEEDS_TLS
    try:
        username = args.username.decode("utf-8")
    except UnicodeDecodeError:
        return FAILED
    return _authenticate(session, username, args.password)


# --- AUTHENTICATE ---


@dataclass(frozen=True, slots=True)
class AuthenticateArgs:
    mechanism: str
    initial: bytes | None = field(repr=False)  # base64, or "=" for an empty one (RFC 4959 §3)


def parse_authenticate(cursor: Cursor, _context: ParseContext) -> AuthenticateArgs:
    cursor.space()
    mechanism = cursor.keyword().decode("ascii")
    initial = None
    if not cursor.at_end:
        cursor.space()
        initial = cursor.data[cursor.position :]
    return AuthenticateArgs(mechanism, initial)


def run_authenticate(session: ImapSession, args: AuthenticateArgs) -> Outcome | Awaitable[Outcome]:
    make_exchange = sasl.MECHANISMS.get(args.mechanism)
    if make_exchange is None or f"AUTH={args.mechanism}".encode() in session.hidden:
        return No("Unsupported mechanism", b"CANNOT")
    if not session.may_authenticate:
        return NEEDS_TLS
    response = None if args.initial is None else sasl.decode_initial(args.initial)
    return _step(session, make_exchange(), response)


def _step(
    session: ImapSession, exchange: sasl.Exchange, response: bytes | None
) -> Outcome | Awaitable[Outcome]:
    result = exchange.step(response)
    if isinstance(result, sasl.PasswordLogin):
        return _authenticate(session, result.username, result.password)

    def on_line(line: bytes) -> Outcome | Awaitable[Outcome]:
        return _step(session, exchange, sasl.decode_response(line))

    return AwaitLine(base64.b64encode(result.data), on_line)


# --- both ---


async def _authenticate(session: ImapSession, username: str, password: bytes) -> Outcome:
    services, connection = session.services, session.connection
    try:
        identity = await services.authenticator.authenticate(
            *("imap", connection.peer, username, password, connection.session_id)
        )
    except AuthenticationFailed:
        return _failed(session)
    except AuthenticationUnavailable:
        return UNAVAILABLE
    await services.sessions.logged_in(connection.session_id, identity)
    session.log_in(identity)
    return Ok("Logged in", responses.code_capability(session.capabilities()))


def _failed(session: ImapSession) -> Outcome:
    session.failed_logins += 1
    if session.failed_logins >= MAX_FAILED_LOGINS:
        session.send(responses.bye("Too many failed logins"))
        session.is_leaving = True
    return FAILED


STARTTLS = Command(
    b"STARTTLS",
    NOT_AUTHENTICATED,
    parse_nothing,
    run_starttls,
    "RFC 9051 §6.2.1",
    capabilities=(b"STARTTLS",),
)
LOGIN = Command(b"LOGIN", NOT_AUTHENTICATED, parse_login, run_login, "RFC 9051 §6.2.3")
AUTHENTICATE = Command(
    b"AUTHENTICATE",
    NOT_AUTHENTICATED,
    parse_authenticate,
    run_authenticate,
    "RFC 9051 §6.2.2",
    capabilities=(*(f"AUTH={name}".encode() for name in sasl.MECHANISMS), b"SASL-IR"),
)
