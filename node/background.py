"""What one process of a node does for all: embedded servers, migrations, uploader and cleaner."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from storage.cleaner import Cleaner, CleanerSettings
from storage.errors import StorageError
from storage.objects.s3 import BucketUnusable
from storage.postgres.migrate import migrate
from storage.postgres.purge import PostgresPurgeStore
from storage.postgres.server import LocalServer
from storage.uploader import Uploader, UploaderSettings

from .core import STOP_WORKERS_WITHIN_S
from .embedded import EmbeddedServer, kept_running
from .rclone import RcloneServer
from .workers import Workers

if TYPE_CHECKING:
    from .config import Cleanup, Config
    from .core import Core

log = logging.getLogger("sora.node")


class EmbeddedServers:
    """PostgreSQL and rclone, where the configuration asks for them."""

    def __init__(self, config: Config, exit_stack: AsyncExitStack) -> None:
        self._config = config
        self._exit = exit_stack

    async def start(self) -> None:
        """Raises ServerError, RcloneUnusable, OSError."""
        embedded, s3 = self._config.embedded, self._config.s3
        write = self._config.database.write
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


async def apply_migrations(core: Core) -> None:
    """Raises MigrationError, StorageError."""
    for label in await migrate(core.settings, core.config.database.migration_timeout_s):
        log.info("database schema: applied %s", label)


def cleaner_settings(cleanup: Cleanup) -> CleanerSettings:
    max_age = cleanup.max_age_restriction_s
    return CleanerSettings(
        grace=timedelta(seconds=cleanup.grace_period_s),
        max_age=timedelta(seconds=max_age) if max_age else None,
        wake_interval_s=cleanup.wake_interval_s,
    )


class Background:
    """Uploader and cleaner of an open core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        options = core.config.uploader
        self.uploader = Uploader(
            core.uploads,
            core.staging,
            core.store,
            core.codec,
            core.staging_name,
            settings=UploaderSettings(
                batch_size=options.batch_size,
                concurrency=options.concurrency,
                lease_s=options.retry_interval_s + core.config.s3.timeout_s,
                retry_interval_s=options.retry_interval_s,
                max_attempts=options.max_attempts,
            ),
            cache=None if core.is_store_near else core.cache,
        )
        self.cleaner = Cleaner(
            PostgresPurgeStore(core.database),
            core.store,
            cleaner_settings(core.config.cleanup),
        )

    async def start(self) -> None:
        await self._check_object_store()
        self._core.workers.start("uploader", self.uploader.run)
        self._core.workers.start("cleaner", self.cleaner.run)

    async def _check_object_store(self) -> None:
        """Says what is wrong with it; staging takes mail all the same until it is mended."""
        try:
            await self._core.plain_store.check()
        except (StorageError, BucketUnusable) as error:
            log.critical("the object store cannot be used; bodies wait in staging until it can: %s", error)
