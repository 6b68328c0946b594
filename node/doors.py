"""The serving half of a node: listeners, sessions and the services they use."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from protocols.annotations import Annotations
from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.imap.presentation import OPTION as PRESENTATION
from protocols.imap.searchpace import OPTION as SEARCH_LIMIT
from protocols.imap.session import SIEVE_URL
from protocols.imap.sessions import imap_sessions
from protocols.imap.views import ViewRegistry
from protocols.lmtp.session import lmtp_sessions
from protocols.managesieve.service import ScriptService
from protocols.managesieve.session import managesieve_sessions
from protocols.pop3.session import pop3_sessions
from protocols.ports import Connection, Identity, Machine, ServerPolicy, Services, Session, SessionFactory
from storage.recoverable import RecoverableMail
from storage.scripts import ScriptQuota
from storage.warmup import Warmup, WarmupSettings

from .annotations import annotation_limits, server_annotations
from .authn import DirectAuthenticator
from .core import PROTOCOLS, Core
from .events import event_queue, sieve_url
from .frontdoor import door_settings, is_trusted
from .hashupgrade import HashUpgrader
from .limits import command_limits, node_memory, session_clock, session_limits
from .listeners import Listener
from .metrics.counting import ProtocolInstruments
from .presentation import imap_presentation
from .recovery import recovered_mail
from .sending import sending_of
from .sieve import allowed_extensions, mail_filter
from .sieveengine import sieve_engine
from .training import spam_trainer
from .verify import PasswordVerifier

if TYPE_CHECKING:
    from protocols.imap.eventqueue import EventQueue
    from protocols.spamtraining.trainer import Trainer
    from storage.api import MailStore
    from storage.bodies import BodyFinder

    from .config import Config, Server
    from .shared import NodeState

log = logging.getLogger("sora.node")

UNLIMITED: Final = sys.maxsize
STOP_SESSIONS_WITHIN_S: Final = 20.0
GOODBYES_SPREAD_S: Final = 1.0


def protocol_servers(config: Config) -> list[Server]:
    """Those that this part of the node runs."""
    return [server for server in config.servers if server.start and server.type in PROTOCOLS]


class Doors:
    """Of one process, on its open core."""

    def __init__(self, core: Core, state: NodeState, verifier: PasswordVerifier) -> None:
        self._core = core
        self._state = state
        self._services_of: dict[str, Services] = {}
        self._hurry = asyncio.Event()
        self.listeners: list[Listener] = []
        self.trainer: Trainer | None = None
        self.events: EventQueue | None = None
        self.instruments = {protocol: ProtocolInstruments() for protocol in PROTOCOLS}
        self.memory = node_memory(core.config, processes=state.processes)
        self.verifier = verifier

    @property
    def bodies(self) -> BodyFinder:
        return self._core.bodies

    async def open(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        """``sockets`` listen; by server name. Raises CertificateUnusable, SieveUnusable."""
        core = self._core
        core.exit.push_async_callback(self.verifier.close)
        upgrader = HashUpgrader(core.accounts, self.verifier)
        core.exit.push_async_callback(upgrader.settle)
        self.authenticator = DirectAuthenticator(core.accounts, self.verifier, upgrader)
        self._recovered = recovered_mail(core)
        self._imap_mail: MailStore = core.mail
        if self._recovered is not None:
            self._imap_mail = RecoverableMail(core.mail, self._recovered)
        self.views = ViewRegistry(self._imap_mail, core.feed)
        core.workers.start("views", self._watch_views)
        self._annotations = Annotations(
            core.annotations,
            annotation_limits(core.config.metadata),
            site=server_annotations(core.config.metadata),
            feed=core.feed,
        )
        self._filter = mail_filter(
            core.config.sieve, core.scripts, core.mail, self._annotations, clock=time.monotonic
        )
        self.trainer = spam_trainer(core.config, core.mail, core.bodies)
        if self.trainer is not None:
            core.workers.start("spam training", self.trainer.run)
        await self._open_listeners(sockets)

    def stop_accepting(self, turned_away: Collection[str] = ()) -> None:
        """Sessions stay. Of the servers ``turned_away`` the sockets go on listening, and who connects is cut
        off. Idempotent."""
        for listener in self.listeners:
            listener.stop_accepting(turns_away=listener.server.name in turned_away)

    async def end_entering(self) -> None:
        """What was accepted and is no session yet is closed."""
        await asyncio.gather(*(listener.end_entering() for listener in self.listeners))

    def resume_accepting(self) -> None:
        """Undo ``stop_accepting``. Idempotent."""
        for listener in self.listeners:
            listener.resume_accepting()

    def obey(self, config: Config) -> None:
        """From now on, for new connections; searches and memory are counted by the new limits at once."""
        self.memory.total_bytes = node_memory(config, processes=self._state.processes).total_bytes
        self._set_event_sending(config)
        servers = {server.name: server for server in config.servers}
        for listener in self.listeners:
            server = servers[listener.server.name]
            listener.server = server
            listener.certificate = self._core.certificates.of(server)
            listener.door.settings = door_settings(server, config.trusted_networks)
            listener.live.clock = session_clock(server)
            listener.factory = self._factory(listener, server)

    def _set_event_sending(self, config: Config) -> None:
        """What scripts send because of events is limited as at delivery."""
        server = next((each for each in config.servers if each.type == "lmtp"), config.servers[0])
        self._event_services.sending = sending_of(self._core, server, self._state.outbox)

    def hurry(self) -> None:
        """Cut off running commands of a stop that is under way."""
        self._hurry.set()

    def yield_to_others(self, *, is_ahead: bool) -> None:
        """Whether other processes should accept the next connections."""
        for listener in self.listeners:
            listener.yield_to_others(is_ahead=is_ahead)

    async def _watch_views(self, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self.views.run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({watching, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not watching.done():
            watching.cancel()
            await self.views.close_all()
            return
        watching.result()

    async def _open_listeners(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        wheel = DeadlineWheel(asyncio.get_running_loop())
        boot = secrets.token_hex(3)  # session ids differ between starts, processes and nodes
        session_ids = (f"{boot}.{n:x}" for n in itertools.count(1))
        self._shared = self._services()
        exit_stack = self._core.exit
        self._event_services = replace(self._shared)
        self._set_event_sending(self._core.config)
        events = self._shared.events = self.events = event_queue(self._core.config, self._event_services)
        if events is not None:
            exit_stack.push_async_callback(events.close)
        self._sieve_url = sieve_url(self._core.config, sockets)
        exit_stack.push_async_callback(self._end_sessions)
        exit_stack.callback(self._state.release_logins)
        for server in protocol_servers(self._core.config):
            self._state.sessions.limit(server.name, session_limits(server))
            live = LiveConnections(
                wheel,
                session_ids=session_ids,
                clock=session_clock(server),
                registry=self._state.sessions,
                protocol=server.type,
                server=server.name,
            )
            listener = self._listener(server, live)
            await listener.open(sockets[server.name])
            exit_stack.push_async_callback(listener.close)
            self.listeners.append(listener)

    def _services(self) -> Services:
        core = self._core
        return Services(
            mail=core.mail,
            accounts=core.accounts,
            bodies=core.bodies,
            intake=core.intake,
            feed=core.feed,
            authenticator=self.authenticator,
            warm_up=self._warm_up(),
            sessions=self._state.sessions,
            memory=self.memory,
            filter=self._filter,
            annotations=self._annotations,
            outbox=self._state.outbox,
            handovers=core.send_log,
            training=self.trainer,
        )

    def _warm_up(self) -> Callable[[Identity], None]:
        core = self._core
        local = core.config.local_cache
        if core.cache is None or not local.enable_warmup or core.is_store_near:
            return lambda _identity: None
        settings = WarmupSettings(
            local.warmup_message_count,
            local.warmup_mailboxes,
            local.warmup_interval_s,
            local.warmup_timeout_s,
        )
        warmup = Warmup(core.mail, core.bodies, core.cache, settings)
        core.exit.push_async_callback(warmup.close)
        return lambda identity: warmup.login(identity.account_id)

    def _listener(self, server: Server, live: LiveConnections) -> Listener:
        gate = self._state.gate_of(server)
        authenticator = self.authenticator.behind(gate, server.name)
        services = replace(self._shared, authenticator=authenticator)
        if server.type == "imap":
            namespaces = () if self._recovered is None else (self._recovered,)
            services = replace(services, mail=self._imap_mail, namespaces=namespaces)
        self._services_of[server.name] = services
        listener = Listener(
            server,
            _unopened,
            live,
            self._core.certificates.of(server),
            door_settings(server, self._core.config.trusted_networks),
            arrive=partial(self._state.sessions.arrive, server.name),
            admission=gate,
        )
        listener.factory = self._factory(listener, server)
        return listener

    def _factory(self, listener: Listener, server: Server) -> SessionFactory:
        """Of sessions that obey these settings as long as they last."""
        policy = self._policy(listener, server)
        sending = sending_of(self._core, server, self._state.outbox)
        services = replace(self._services_of[server.name], sending=sending)
        if server.type == "imap":
            return imap_sessions(services, policy, self.views)
        if server.type == "pop3":
            return pop3_sessions(services, policy, self._state.maildrops)
        if server.type == "managesieve":
            return managesieve_sessions(services, policy, self._scripts(server))
        return lmtp_sessions(services, policy)

    def _scripts(self, server: Server) -> ScriptService:
        core = self._core
        sends = self._state.outbox is not None
        options = core.config.sieve
        engine = sieve_engine(
            allowed_extensions(options), server, sends=sends, has_lists=bool(options.lists_path)
        )
        quota = ScriptQuota(server.max_scripts or UNLIMITED, server.max_script_size_bytes)
        return ScriptService(core.scripts, engine, quota)

    def _policy(self, listener: Listener, server: Server) -> ServerPolicy:
        return ServerPolicy(
            name=server.name,
            hostname=self._core.config.hostname or socket.getfqdn(),
            tls_context=listener.starttls_context,
            implicit_tls=server.tls and not server.tls_use_starttls,
            trusts=partial(is_trusted, networks=self._core.config.trusted_networks),
            insecure_auth=server.insecure_auth,
            max_message_bytes=(
                server.append_limit_bytes if server.type == "imap" else server.max_message_size_bytes
            ),
            command_timeout_s=server.command_timeout_s,
            auth_idle_timeout_s=server.auth_idle_timeout_s or server.command_timeout_s,
            session_memory_bytes=server.limits.session_memory_limit_bytes,
            command_limits_s=command_limits(server),
            instruments=self.instruments[server.type],
            options=self._imap_options(server) if server.type == "imap" else {},
        )

    def _imap_options(self, server: Server) -> dict[str, object]:
        return {
            PRESENTATION: imap_presentation(server),
            SEARCH_LIMIT: partial(self._state.begin_search, server.name),
            SIEVE_URL: self._sieve_url,
        }

    async def _end_sessions(self) -> None:
        goodbye = asyncio.create_task(self._end_all())
        hurried = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({goodbye, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not goodbye.done():
            for connection in [each for listener in self.listeners for each in listener.live]:
                connection.abort()
        cut = await goodbye
        if cut:
            log.warning("%d connections were cut off", cut)

    async def _end_all(self) -> int:
        """How many had to be cut off."""
        return sum(await asyncio.gather(*(self._end(listener.live) for listener in self.listeners)))

    async def _end(self, live: LiveConnections) -> int:
        spread_s = min(GOODBYES_SPREAD_S, len(live) / 500)
        return await live.shutdown(spread_s=spread_s, grace_s=STOP_SESSIONS_WITHIN_S)


def _unopened(_connection: Connection) -> tuple[Machine, Session]:
    raise AssertionError("a listener that is not open accepts nobody")


def password_verifier(processes: int) -> PasswordVerifier:
    """With this process's share of the CPUs."""
    return PasswordVerifier(threads=max(1, (os.cpu_count() or 1) // processes), clock=time.monotonic)
