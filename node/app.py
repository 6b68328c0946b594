"""The composition root: the one place that names concrete stores and builds a running node.

Start order: what is depended on first. Stop order: the reverse, each step with a deadline, so that an
acknowledged message is never in the hands of something that is being torn down. A start that fails
half-way stops what had been started.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.connections import LiveConnections
from protocols.deadlines import DeadlineWheel
from protocols.imap.presentation import OPTION
from protocols.imap.sessions import imap_sessions
from protocols.imap.views import ViewRegistry
from protocols.lmtp.session import lmtp_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import Identity, ServerPolicy, Services, SessionFactory
from storage.api import BlobStore
from storage.bodies import BodyFinder
from storage.cleaner import Cleaner, CleanerSettings
from storage.errors import AlreadyExists, StorageError
from storage.intake import LocalIntake
from storage.mime.message import describe
from storage.model import Appended, NewMessage, StagedContent
from storage.objects.cache import BodyCache
from storage.objects.codec import Codec, KeyRing
from storage.objects.fs import FileBlobStore
from storage.objects.s3 import BucketUnusable, S3BlobStore, S3Config
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.migrate import MigrationError, migrate
from storage.postgres.pool import Database
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.server import LocalServer, ServerError
from storage.postgres.store import PostgresMailStore
from storage.postgres.uploads import PostgresUploadStore
from storage.staging import (
    DatabaseStaging,
    DiskStaging,
    StagingAreas,
    StagingBound,
    disk_level,
    staging_identity,
)
from storage.uploader import Uploader, UploaderSettings
from storage.warmup import Warmup, WarmupSettings
from tls.errors import CertificateUnusable

from .authn import DirectAuthenticator
from .certificates import REFRESH_S, Certificates
from .control import ControlServer, ControlUnusable, control_path
from .controlblocks import block_commands
from .controlconnections import connection_commands
from .database import settings_from
from .embedded import EmbeddedServer, kept_running
from .feed import HostFeed
from .frontdoor import door_settings
from .hashupgrade import HashUpgrader
from .limits import command_limits, node_memory, search_options, session_clock, session_limits
from .listeners import Listener, ListenFailed
from .loginguard import Guards
from .metrics.counting import ProtocolInstruments
from .metrics.store import MeteredStore
from .monitoring import Monitoring
from .passwords import hash_password
from .presentation import imap_presentation
from .rclone import RcloneServer, RcloneUnusable
from .sessions import Sessions
from .status import StatusCommand
from .verify import PasswordVerifier
from .workers import Workers, every

if TYPE_CHECKING:
    from .config import Config, Server
    from .metrics.server import MetricsServer

log = logging.getLogger("sora.node")

STOP_SESSIONS_WITHIN_S = 20.0
STOP_WORKERS_WITHIN_S = 15.0
GOODBYES_SPREAD_S = 1.0
NO_BOUND = sys.maxsize
PROTOCOLS = ("imap", "pop3", "lmtp")


class StartFailed(Exception):
    """The node cannot start; the message names the cause and, where it is known, the cure."""


class _MailStore(PostgresMailStore):
    """Tells the uploader of new bodies as soon as they are committed."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.on_staged: Callable[[], None] = lambda: None

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        appended = await super().append(staged, messages)
        self.on_staged()
        return appended


class Node:
    """One node in one process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.listeners: list[Listener] = []
        self._exit = AsyncExitStack()
        self._hurry = asyncio.Event()
        self._maildrops = LocalMaildropLock()
        self.sessions = Sessions(config.trusted_networks)
        self.instruments = {protocol: ProtocolInstruments() for protocol in PROTOCOLS}
        self.metrics_servers: list[MetricsServer] = []
        self.memory = node_memory(config)

    # --- life ---

    async def start(self) -> None:
        """Serving when it returns. Raises StartFailed."""
        try:
            await self._start()
        except (
            ServerError,
            RcloneUnusable,
            MigrationError,
            StorageError,
            CertificateUnusable,
            ListenFailed,
            OSError,
        ) as error:
            raise StartFailed(str(error)) from error

    async def stop(self) -> None:
        """Stop accepting, say goodbye, finish what runs, then let go of the stores. Idempotent."""
        await self._exit.aclose()

    def hurry(self) -> None:
        """Cut off running commands of a stop that is under way."""
        self._hurry.set()

    async def _start(self) -> None:
        config = self.config
        await self._start_embedded()
        settings = settings_from(config)
        for label in await migrate(settings, config.database.migration_timeout_s):
            log.info("database schema: applied %s", label)
        self.database = await Database.open(settings)
        self._exit.push_async_callback(self.database.close)
        self.accounts = PostgresAccountStore(self.database)
        self.mail = _MailStore(self.database)
        plain_store = self._object_store()
        await self._check_object_store(plain_store)
        store = MeteredStore(plain_store)
        self._build_bodies(store)
        self._build_authentication()
        self._start_feed()
        self._start_workers(store)
        await self._start_listeners()
        await self._start_monitoring(store)
        await self._start_control()

    async def ensure_account(self, address: str, password: str) -> None:
        """Create the account when it is not there yet."""
        try:
            await self.accounts.create_account(
                address, await asyncio.to_thread(hash_password, password.encode())
            )
        except AlreadyExists:
            return
        log.info("account %s created", address)

    def addresses(self) -> dict[str, str]:
        """Server name to the address that was really bound."""
        bound: list[Listener | MetricsServer] = [*self.listeners, *self.metrics_servers]
        return {each.server.name: each.address for each in bound}

    # --- steps of the start ---

    async def _start_embedded(self) -> None:
        embedded, s3 = self.config.embedded, self.config.s3
        write = self.config.database.write
        if embedded.postgres_path:
            server = LocalServer(Path(embedded.postgres_path), write.password.reveal(), user=write.user)
            self._exit.push_async_callback(server.stop)  # also of a start that is interrupted
            await server.start()
            await server.create_database(write.name)
            self._keep_running("the embedded PostgreSQL", server)
        if embedded.rclone_path:
            port = int(s3.endpoint.rpartition(":")[2])
            rclone = RcloneServer(Path(embedded.rclone_path), port, s3.access_key, s3.secret_key.reveal())
            self._exit.push_async_callback(rclone.stop)
            await rclone.start(s3.bucket)
            self._keep_running("the embedded rclone", rclone)

    def _keep_running(self, name: str, server: EmbeddedServer) -> None:
        """Until just before the server itself is stopped: sessions that say goodbye still need it."""
        keeper = Workers()
        self._exit.push_async_callback(keeper.stop, STOP_WORKERS_WITHIN_S)
        keeper.start(name, kept_running(name, server))

    def _object_store(self) -> FileBlobStore | S3BlobStore:
        s3 = self.config.s3
        if s3.driver == "file":
            return FileBlobStore(Path(s3.path))
        return S3BlobStore(
            S3Config(
                endpoint=s3.endpoint,
                bucket=s3.bucket,
                access_key=s3.access_key,
                secret_key=s3.secret_key.reveal(),
                region=s3.region,
                use_tls=not s3.disable_tls,
                path_style=s3.path_style,
                timeout_s=s3.timeout_s,
                retries=s3.retries,
                debug=s3.debug,
            )
        )

    async def _check_object_store(self, store: FileBlobStore | S3BlobStore) -> None:
        """Says what is wrong with it; staging takes mail all the same until it is mended."""
        try:
            await store.check()
        except (StorageError, BucketUnusable) as error:
            log.critical("the object store cannot be used; bodies wait in staging until it can: %s", error)

    def _build_bodies(self, store: BlobStore) -> None:
        config = self.config
        keys = KeyRing(
            config.s3.encryption_key.reveal() if config.s3.encrypt else None,
            [key.reveal() for key in (config.s3.encryption_key, *config.s3.previous_encryption_keys) if key],
        )
        codec = Codec(keys, compress=config.s3.compress)
        self.uploads = PostgresUploadStore(self.database)
        path = Path(config.uploader.path)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = staging_identity(path, config.uploader.instance_id or socket.gethostname())

        async def staged_bytes() -> int:
            return (await self.uploads.staging_level()).encoded_bytes

        limit = config.uploader.max_staging_size_bytes or NO_BOUND
        staging = StagingAreas(
            DatabaseStaging(self.uploads, StagingBound(limit, staged_bytes)),
            DiskStaging(
                path,
                name,
                StagingBound(limit, lambda: disk_level(path)),
                keep_s=config.uploader.cleanup_grace_period_s,
            ),
            use_disk=config.uploader.staging == "disk",
        )
        self.cache = self._open_cache()
        # objects in a directory of this machine are as near as the cache
        is_near = config.s3.driver == "file"
        self.bodies = BodyFinder(
            store, staging, self.uploads, codec, path / "tmp", cache=self.cache, is_store_near=is_near
        )
        self._exit.push_async_callback(self.bodies.close)
        self.intake = LocalIntake(staging, codec, describe, path / "tmp")
        self.uploader = Uploader(
            self.uploads,
            staging,
            store,
            codec,
            name,
            settings=UploaderSettings(
                batch_size=config.uploader.batch_size,
                concurrency=config.uploader.concurrency,
                lease_s=config.uploader.retry_interval_s + config.s3.timeout_s,
                retry_interval_s=config.uploader.retry_interval_s,
                max_attempts=config.uploader.max_attempts,
            ),
            cache=None if is_near else self.cache,
        )
        self.mail.on_staged = self.uploader.notify

    def _open_cache(self) -> BodyCache | None:
        local = self.config.local_cache
        if not local.capacity_bytes:
            return None
        cache = BodyCache(Path(local.path), local.capacity_bytes, local.max_object_size_bytes)
        cache.open()
        self._exit.callback(cache.close)
        return cache

    def _build_authentication(self) -> None:
        self.verifier = PasswordVerifier(threads=os.cpu_count() or 1, clock=time.monotonic)
        self._exit.push_async_callback(self.verifier.close)
        upgrader = HashUpgrader(self.accounts, self.verifier)
        self._exit.push_async_callback(upgrader.settle)
        self.authenticator = DirectAuthenticator(self.accounts, self.verifier, upgrader)
        self.guards = Guards(self.config, check_takes_s=lambda: self.verifier.check_takes_s)

    def _start_feed(self) -> None:
        self.feed = HostFeed(Path(self.config.uploader.path) / "feed")
        self._exit.callback(self.feed.close)
        self.feed.start(asyncio.get_running_loop())

    def _start_workers(self, store: BlobStore) -> None:
        cleanup = self.config.cleanup
        max_age = cleanup.max_age_restriction_s
        self.cleaner = Cleaner(
            PostgresPurgeStore(self.database),
            store,
            CleanerSettings(
                grace=timedelta(seconds=cleanup.grace_period_s),
                max_age=timedelta(seconds=max_age) if max_age else None,
                wake_interval_s=cleanup.wake_interval_s,
            ),
        )
        self.views = ViewRegistry(self.mail, self.feed)
        self.certificates = Certificates(self.config)
        workers = self.workers = Workers()
        self._exit.push_async_callback(workers.stop, STOP_WORKERS_WITHIN_S)
        workers.start("uploader", self.uploader.run)
        workers.start("cleaner", self.cleaner.run)
        workers.start("views", self._watch_views)
        workers.start("rate limits", self.guards.run)
        workers.start("certificates", every(REFRESH_S, self.certificates.refresh))

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

    async def _start_listeners(self) -> None:
        wheel = DeadlineWheel(asyncio.get_running_loop())
        boot = secrets.token_hex(3)  # session ids differ between starts, processes and nodes
        session_ids = (f"{boot}.{n:x}" for n in itertools.count(1))
        services = self._services()
        self._exit.push_async_callback(self._end_sessions)
        self._exit.callback(self.guards.close)
        for server in self.config.servers:
            if not server.start or server.type not in PROTOCOLS:
                continue
            self.sessions.limit(server.name, session_limits(server))
            live = LiveConnections(
                wheel,
                session_ids=session_ids,
                clock=session_clock(server),
                registry=self.sessions,
                protocol=server.type,
                server=server.name,
            )
            authenticator = self.authenticator.behind(self.guards.of(server))
            listener = self._listener(server, replace(services, authenticator=authenticator), live)
            await listener.open()
            self._exit.push_async_callback(listener.close)
            self.listeners.append(listener)

    async def _start_monitoring(self, store: MeteredStore) -> None:
        self.monitoring = Monitoring(self, store)
        self._exit.push_async_callback(self.monitoring.checker.close)
        self.workers.start("health", self.monitoring.checker.run)
        self.workers.start("loop-lag", self.monitoring.lag.run)
        servers = [each for each in self.config.servers if each.start and each.type == "metrics"]
        if not servers:
            return
        from .metrics.server import MetricsServer  # aiohttp takes 0.15 s and 16 MB

        for server in servers:
            serving = MetricsServer(
                server, self.monitoring.render, self.monitoring.report, self.certificates.of(server)
            )
            await serving.open()
            self._exit.push_async_callback(serving.close)
            self.workers.start(f"{server.name}-sweep", serving.sweep)
            self.metrics_servers.append(serving)

    async def _start_control(self) -> None:
        status = StatusCommand(self.listeners, self.guards, self.uploads.staging_level, time.monotonic)
        commands = {
            **status.table(),
            **block_commands(self.guards),
            **connection_commands(self.sessions, time.time),
            **self.monitoring.commands(),
        }
        control = ControlServer(control_path(self.config), commands)
        try:
            await control.open()
        except ControlUnusable as error:
            log.error("sora-admin cannot talk to this node: %s", error)  # mail matters more
            return
        self._exit.push_async_callback(control.close)

    def _services(self) -> Services:
        return Services(
            mail=self.mail,
            accounts=self.accounts,
            bodies=self.bodies,
            intake=self.intake,
            feed=self.feed,
            authenticator=self.authenticator,
            warm_up=self._warm_up(),
            sessions=self.sessions,
            memory=self.memory,
        )

    def _warm_up(self) -> Callable[[Identity], None]:
        local = self.config.local_cache
        if self.cache is None or not local.enable_warmup or self.config.s3.driver == "file":
            return lambda _identity: None
        settings = WarmupSettings(
            local.warmup_message_count,
            local.warmup_mailboxes,
            local.warmup_interval_s,
            local.warmup_timeout_s,
        )
        warmup = Warmup(self.mail, self.bodies, self.cache, settings)
        self._exit.push_async_callback(warmup.close)
        return lambda identity: warmup.login(identity.account_id)

    def _listener(self, server: Server, services: Services, live: LiveConnections) -> Listener:
        certificate = self.certificates.of(server)
        policy = ServerPolicy(
            name=server.name,
            hostname=self.config.hostname or socket.getfqdn(),
            tls_context=lambda: listener.starttls_context(),
            implicit_tls=server.tls and not server.tls_use_starttls,
            insecure_auth=server.insecure_auth,
            max_message_bytes=(
                server.append_limit_bytes if server.type == "imap" else server.max_message_size_bytes
            ),
            command_timeout_s=server.command_timeout_s,
            auth_idle_timeout_s=server.auth_idle_timeout_s or server.command_timeout_s,
            session_memory_bytes=server.limits.session_memory_limit_bytes,
            command_limits_s=command_limits(server),
            instruments=self.instruments[server.type],
            options=(
                {OPTION: imap_presentation(server), **search_options(server)} if server.type == "imap" else {}
            ),
        )
        door = door_settings(server, self.config.trusted_networks)
        listener = Listener(
            server,
            self._factory(server.type, services, policy),
            live,
            certificate,
            door,
            arrive=partial(self.sessions.arrive, server.name),
            admission=self.guards.of(server),
        )
        return listener

    def _factory(self, protocol: str, services: Services, policy: ServerPolicy) -> SessionFactory:
        if protocol == "imap":
            return imap_sessions(services, policy, self.views)
        if protocol == "pop3":
            return pop3_sessions(services, policy, self._maildrops)
        return lmtp_sessions(services, policy)

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
