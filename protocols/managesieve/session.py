"""One ManageSieve conversation: login, and the scripts of the account."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from protocols import sasl
from protocols.errors import (
    AuthenticationFailed,
    AuthenticationUnavailable,
    LimitReached,
    PeerError,
    TooManySessions,
)
from protocols.memory import SessionMemory
from protocols.ports import (
    Connection,
    Goodbye,
    Identity,
    Machine,
    ServerPolicy,
    Services,
    Session,
    SessionFactory,
)
from protocols.starttls import start_tls
from protocols.timelimit import OverTime, within
from storage.errors import CommitUnknown, NotFound, StorageError
from storage.model import AccountId
from storage.scripts import ScriptStore

from . import grammar, replies
from .commands import (
    Authenticate,
    Capability,
    CheckScript,
    DeleteScript,
    GetScript,
    GiveUp,
    HaveSpace,
    ListScripts,
    Logout,
    PutScript,
    RenameScript,
    SaslResponse,
    ScriptAnnounced,
    SetActive,
    StartTls,
    Unauthenticate,
)
from .compiler import Verdict
from .machine import ManageSieveMachine
from .replies import Reply, error_reply, no, ok
from .service import ScriptService

log = logging.getLogger("sora.managesieve")

# Who edits a script thinks in between. Before login a connection deserves less.
MIN_IDLE_S = 1800.0
# Scripts up to this size are not charged: so much a session may hold anyway.
FREE_SCRIPT_BYTES = 16 * 1024
_NAMES: Mapping[type, bytes] = {
    **{
        each: each.__name__.upper().encode()
        for each in (
            Authenticate,
            Capability,
            CheckScript,
            DeleteScript,
            GetScript,
            HaveSpace,
            ListScripts,
            Logout,
            PutScript,
            RenameScript,
            SetActive,
            StartTls,
            Unauthenticate,
        )
    },
    SaslResponse: b"AUTHENTICATE",
}


def managesieve_sessions(services: Services, policy: ServerPolicy, scripts: ScriptService) -> SessionFactory:
    """The factory of one ManageSieve server."""

    def make(connection: Connection) -> tuple[Machine, Session]:
        machine = ManageSieveMachine()
        return machine, ManageSieveSession(connection, machine, services, policy, scripts)

    return make


class ManageSieveSession:
    """Runs the machine's events."""

    __slots__ = (
        "_charged",
        "_connection",
        "_exchange",
        "_identity",
        "_machine",
        "_memory",
        "_policy",
        "_scripts",
        "_services",
    )

    def __init__(
        self,
        connection: Connection,
        machine: ManageSieveMachine,
        services: Services,
        policy: ServerPolicy,
        scripts: ScriptService,
    ) -> None:
        self._connection = connection
        self._machine = machine
        self._services = services
        self._policy = policy
        self._scripts = scripts
        self._memory = SessionMemory(services.memory, policy.session_memory_bytes)
        self._charged = 0  # for the script that comes or is being worked on
        self._exchange: sasl.Exchange | None = None
        self._identity: Identity | None = None

    # --- the driver's calls ---

    def on_connect(self) -> None:
        self._connection.set_deadline(self._policy.auth_idle_timeout_s)
        self._machine.announce(replies.READY, self._capabilities())

    def handle(self, event: object) -> Awaitable[None] | None:
        waiting = self._HANDLERS[type(event)](self, event)
        if waiting is not None:
            return self._wait(event, waiting)
        self._measure(event)
        return None

    async def _wait(self, event: object, waiting: Awaitable[None]) -> None:
        limit_s = self._policy.command_limits_s.get(type(event).__name__.upper())
        try:
            await within(limit_s, self._connection, waiting)
        except OverTime as error:
            self._refuse_late(error)
        except StorageError as error:
            self._machine.send(error_reply(error))
        finally:
            self._release_script()
        self._measure(event)

    def _refuse_late(self, error: OverTime) -> None:
        if self._machine.owes_reply:
            self._machine.send(no(error.reply, replies.TRYLATER))

    def _measure(self, event: object) -> None:
        """A challenge does not end its command, nor does a script that may come."""
        reply, name = self._machine.answer, _NAMES.get(type(event))
        if isinstance(event, ScriptAnnounced):
            name = event.verb
        if reply is not None and name is not None:
            work_s = self._connection.take_work_s()
            self._policy.instruments.command_ended(name, reply.status.value, work_s)

    def on_wake(self) -> None:
        """Nothing wakes a ManageSieve session."""

    def on_timeout(self) -> None:
        self._machine.announce(replies.IDLE_TOO_LONG)
        self._connection.close()

    def on_bug(self, error: Exception) -> None:
        self._machine.announce(replies.server_bug(self._connection.session_id))

    def on_goodbye(self, why: Goodbye) -> None:
        self._machine.announce(replies.GOODBYES[why])
        self._connection.close()

    def on_close(self) -> None:
        self._memory.close()

    # --- in any state ---

    def _capabilities(self) -> bytes:
        """RFC 5804 §1.7. No SASL mechanism has a security layer here, so AUTHENTICATE changes only OWNER."""
        compiler = self._scripts.compiler
        may_log_in = self._policy.allows_passwords(self._connection)
        offered: list[tuple[str, str | None]] = [
            ("IMPLEMENTATION", "Sora"),
            ("SIEVE", " ".join(compiler.extensions)),
            ("SASL", " ".join(sasl.MECHANISMS) if may_log_in else ""),
        ]
        if self._policy.offers_starttls(self._connection):
            offered.append(("STARTTLS", None))
        if compiler.max_redirects is not None:
            offered.append(("MAXREDIRECTS", str(compiler.max_redirects)))
        if compiler.notify_schemes:
            offered.append(("NOTIFY", " ".join(compiler.notify_schemes)))
        if compiler.list_schemes:
            offered.append(("EXTLISTS", " ".join(compiler.list_schemes)))
        if self._identity is not None:
            offered.append(("OWNER", self._identity.primary_address))
        offered += [("UNAUTHENTICATE", None), ("LANGUAGE", "en"), ("VERSION", "1.0")]
        return b"".join(_capability_line(name, value) for name, value in offered)

    def _capability(self, event: Capability) -> None:
        self._machine.send(replies.CAPABILITIES, self._capabilities())

    def _logout(self, event: Logout) -> None:
        self._machine.send(replies.GOODBYE)
        self._connection.close()

    def _give_up(self, event: GiveUp) -> None:
        self._connection.close()

    # --- before login ---

    def _starttls(self, event: StartTls) -> Awaitable[None] | None:
        return start_tls(
            self._policy, self._connection, self._shake_hands, self._machine.send, replies.TLS_REFUSALS
        )

    async def _shake_hands(self) -> None:
        self._exchange = None
        self._machine.send(replies.TLS_READY)
        await self._connection.start_tls()
        self._machine.tls_started()
        # RFC 5804 §2.2: what was said in the clear may have been changed on its way
        self._machine.announce(replies.TLS_IS_ON, self._capabilities())

    def _authenticate(self, event: Authenticate) -> Awaitable[None] | None:
        make_exchange = sasl.MECHANISMS.get(event.mechanism)
        if make_exchange is None:
            self._machine.send(replies.UNKNOWN_MECHANISM)
            return None
        if not self._policy.allows_passwords(self._connection):
            self._machine.send(replies.NEEDS_TLS)
            return None
        self._exchange = make_exchange()
        return self._step(sasl.decode_initial, event.initial)

    def _sasl_response(self, event: SaslResponse) -> Awaitable[None] | None:
        return self._step(sasl.decode_response, event.response)

    def _step(self, decode: Callable[[bytes], bytes], raw: bytes | None) -> Awaitable[None] | None:
        assert self._exchange is not None
        try:
            outcome = self._exchange.step(None if raw is None else decode(raw))
        except PeerError as error:
            self._exchange = None
            self._machine.send(no(error.reply))
            return None
        if isinstance(outcome, sasl.Challenge):
            self._machine.challenge(outcome.data)
            return None
        self._exchange = None
        return self._log_in(outcome.username, outcome.password)

    async def _log_in(self, username: str, password: bytes) -> None:
        services, connection = self._services, self._connection
        try:
            identity = await services.authenticator.authenticate(
                *("managesieve", connection.peer, username, password, connection.session_id)
            )
            await services.sessions.logged_in(connection.session_id, identity)
        except AuthenticationFailed:
            self._machine.send(replies.LOGIN_FAILED)
        except AuthenticationUnavailable:
            self._machine.send(replies.LOGIN_UNAVAILABLE)
        except TooManySessions as error:
            self._machine.send(no(error.reply, replies.TRYLATER))
        else:
            self._identity = identity
            connection.user = identity.address
            log.info("logged in", extra=connection.log_extra)
            connection.set_deadline(max(MIN_IDLE_S, self._policy.command_timeout_s))
            self._machine.send(replies.LOGGED_IN)

    def _unauthenticate(self, event: Unauthenticate) -> None:
        log.info("logged out", extra=self._connection.log_extra)
        self._identity = None
        self._connection.user = ""
        self._services.sessions.logged_out(self._connection.session_id)
        self._connection.set_deadline(self._policy.auth_idle_timeout_s)
        self._machine.send(replies.LOGGED_OUT)

    # --- scripts on their way in ---

    def _script_announced(self, event: ScriptAnnounced) -> None:
        self._release_script()  # of a command that went wrong behind its script
        if event.size_bytes > self._scripts.quota.script_bytes:
            self._machine.refuse_script(replies.too_large(event.size_bytes, self._scripts.quota.script_bytes))
            return
        try:
            self._charge_script(event.size_bytes)
        except LimitReached as error:
            self._machine.refuse_script(no(error.reply, replies.TRYLATER))
        else:
            self._machine.accept_script()

    def _charge_script(self, size_bytes: int) -> None:
        """Raises OverMemory."""
        if size_bytes > FREE_SCRIPT_BYTES:
            self._memory.charge(size_bytes)
            self._charged = size_bytes

    def _release_script(self) -> None:
        self._memory.refund(self._charged)
        self._charged = 0

    def _has_space(self, event: HaveSpace) -> Awaitable[None] | None:
        if event.size_bytes > self._scripts.quota.script_bytes:
            self._machine.send(replies.too_large(event.size_bytes, self._scripts.quota.script_bytes))
            return None
        return self._ask_for_space(event)

    async def _ask_for_space(self, event: HaveSpace) -> None:
        quota = self._scripts.quota
        await self._store.has_space(self._account_id, event.name, event.size_bytes, quota)
        self._machine.send(replies.HAS_SPACE)

    async def _put_script(self, event: PutScript) -> None:
        verdict = await self._checked(event.script)
        if verdict is None:
            return
        await _until_known(
            lambda: self._store.put(self._account_id, event.name, event.script, self._scripts.quota)
        )
        self._log_change("script stored", event.name)
        self._machine.send(_with_warnings(replies.STORED, verdict))

    async def _check_script(self, event: CheckScript) -> None:
        verdict = await self._checked(event.script)
        if verdict is not None:
            self._machine.send(_with_warnings(replies.COMPILES, verdict))

    async def _checked(self, script: bytes) -> Verdict | None:
        """None: it is refused already."""
        if len(script) > self._scripts.quota.script_bytes:  # a quoted one
            self._machine.send(replies.too_large(len(script), self._scripts.quota.script_bytes))
            return None
        verdict = await self._scripts.compiler.check(script)
        if verdict.errors:
            self._machine.send(no(verdict.errors))
            return None
        return verdict

    # --- scripts that are there ---

    @property
    def _store(self) -> ScriptStore:
        return self._scripts.store

    @property
    def _account_id(self) -> AccountId:
        assert self._identity is not None
        return self._identity.account_id

    async def _list_scripts(self, event: ListScripts) -> None:
        lines = [
            b"%b%b\r\n" % (grammar.string(script.name.encode()), b" ACTIVE" if script.is_active else b"")
            for script in await self._store.scripts(self._account_id)
        ]
        self._machine.send(replies.DONE, b"".join(lines))

    async def _get_script(self, event: GetScript) -> None:
        size_bytes = self._scripts.quota.script_bytes  # the most it can have
        try:
            self._charge_script(size_bytes)
        except LimitReached as error:
            self._machine.send(no(error.reply, replies.TRYLATER))
            return
        script = await self._store.script(self._account_id, event.name)
        self._machine.send(replies.DONE, grammar.literal(script) + b"\r\n")
        await self._connection.drain()

    async def _set_active(self, event: SetActive) -> None:
        await _until_known(lambda: self._store.activate(self._account_id, event.name))
        self._log_change("script activated", event.name or "(none)")
        self._machine.send(replies.DEACTIVATED if event.name is None else replies.ACTIVATED)

    async def _delete_script(self, event: DeleteScript) -> None:
        await _until_known(lambda: self._store.delete(self._account_id, event.name), done_when=NotFound)
        self._log_change("script deleted", event.name)
        self._machine.send(replies.DELETED)

    async def _rename_script(self, event: RenameScript) -> None:
        await _until_known(
            lambda: self._store.rename(self._account_id, event.old, event.new), done_when=NotFound
        )
        self._log_change("script renamed", event.new)
        self._machine.send(replies.RENAMED)

    def _log_change(self, what: str, name: str) -> None:
        log.info("%s: %s", what, name, extra=self._connection.log_extra)

    _HANDLERS: ClassVar[dict[type, Callable[[ManageSieveSession, Any], Awaitable[None] | None]]] = {
        Authenticate: _authenticate,
        Capability: _capability,
        CheckScript: _check_script,
        DeleteScript: _delete_script,
        GetScript: _get_script,
        GiveUp: _give_up,
        HaveSpace: _has_space,
        ListScripts: _list_scripts,
        Logout: _logout,
        PutScript: _put_script,
        RenameScript: _rename_script,
        SaslResponse: _sasl_response,
        ScriptAnnounced: _script_announced,
        SetActive: _set_active,
        StartTls: _starttls,
        Unauthenticate: _unauthenticate,
    }


def _capability_line(name: str, value: str | None) -> bytes:
    line = grammar.string(name.encode())
    return line + b"\r\n" if value is None else b"%b %b\r\n" % (line, grammar.string(value.encode()))


def _with_warnings(reply: Reply, verdict: Verdict) -> Reply:
    """Warnings stand on one line: sieve-connect takes an OK of several lines for a failure."""
    return ok("; ".join(verdict.warnings.splitlines()), b"WARNINGS") if verdict.warnings else reply


async def _until_known(
    change: Callable[[], Awaitable[None]], *, done_when: type[StorageError] | None = None
) -> None:
    """The change, once more when nobody knows whether it was made. ``done_when``: what the second attempt
    raises when the first one was."""
    try:
        await change()
    except CommitUnknown:
        try:
            await change()
        except StorageError as error:
            if done_when is None or not isinstance(error, done_when):
                raise
