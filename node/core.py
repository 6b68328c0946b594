"""What every process of a node has: its database connections, mail, bodies, the change feed and its loops.

Start order: what is depended on first; ``exit`` undoes it in reverse, each step with a deadline, so that an
acknowledged message is never in the hands of something that is being torn down.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocols.settings import settings_changed
from storage.bodies import BodyFinder
from storage.floor import DiskFloor
from storage.intake import LocalIntake
from storage.mime.message import describe
from storage.model import Appended, NewMessage, StagedContent
from storage.objects.cache import BodyCache
from storage.objects.codec import Codec, KeyRing
from storage.objects.fs import FileBlobStore
from storage.objects.s3 import S3BlobStore, S3Config
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.annotations import PostgresAnnotationStore
from storage.postgres.pool import Database
from storage.postgres.scripts import PostgresScriptStore
from storage.postgres.sendlog import PostgresSendLog
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

from .certificates import REFRESH_S, Certificates
from .database import settings_from
from .feed import HostFeed, feed_directory
from .metrics.store import MeteredStore
from .workers import Workers, every

if TYPE_CHECKING:
    from storage.postgres.settings import DatabaseSettings

    from .config import Config

log = logging.getLogger("sora.node")

STOP_WORKERS_WITHIN_S: Final = 15.0
NO_BOUND: Final = sys.maxsize
PROTOCOLS: Final = ("imap", "pop3", "lmtp", "managesieve")


class _MailStore(PostgresMailStore):
    """Tells the uploader of new bodies as soon as they are committed."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.on_staged: Callable[[], None] = lambda: None

    async def append(self, staged: StagedContent, messages: Sequence[NewMessage]) -> list[Appended]:
        appended = await super().append(staged, messages)
        self.on_staged()
        return appended


class Core:
    """``processes``: how many share the node's database connections. ``exit`` belongs to the owner."""

    def __init__(
        self,
        config: Config,
        exit_stack: AsyncExitStack,
        *,
        processes: int = 1,
        certificates: Certificates | None = None,
    ) -> None:
        self.config = config
        self.exit = exit_stack
        self.settings: DatabaseSettings = settings_from(config, processes=processes)
        self.plain_store = object_store(config)
        self.store = MeteredStore(self.plain_store)
        self.certificates = certificates or Certificates(config)
        self.workers = Workers()

    @property
    def is_store_near(self) -> bool:
        """Objects in a directory of this machine are as near as the cache."""
        return self.config.s3.driver == "file"

    async def open(self) -> None:
        """Raises StorageError, OSError."""
        self.database = await Database.open(self.settings)
        self.exit.push_async_callback(self.database.close)
        self.accounts = PostgresAccountStore(self.database)
        self.mail = _MailStore(self.database)
        self.scripts = PostgresScriptStore(
            self.database, lambda account_id: self.feed.publish(settings_changed(account_id))
        )
        self.send_log = PostgresSendLog(self.database)
        self.annotations = PostgresAnnotationStore(self.database)
        self._build_bodies()
        self.feed = HostFeed(feed_directory(self.config))
        self.exit.callback(self.feed.close)
        self.feed.start(asyncio.get_running_loop())
        self.exit.push_async_callback(self.workers.stop, STOP_WORKERS_WITHIN_S)
        self.workers.start("certificates", every(REFRESH_S, self.certificates.refresh))

    def _build_bodies(self) -> None:
        config = self.config
        self.codec = body_codec(config)
        self.uploads = PostgresUploadStore(self.database)
        path = Path(config.uploader.path)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.staging = self._build_staging(path)
        self.cache = self._open_cache()
        self.bodies = BodyFinder(
            self.store,
            self.staging,
            self.uploads,
            self.codec,
            path / "tmp",
            cache=self.cache,
            is_store_near=self.is_store_near,
        )
        self.exit.push_async_callback(self.bodies.close)
        self.intake = LocalIntake(self.staging, self.codec, describe, path / "tmp", floor=self.disk_floors[0])

    def _build_staging(self, path: Path) -> StagingAreas:
        options = self.config.uploader
        self.staging_name = staging_identity(path, options.instance_id or socket.gethostname())
        own = DiskFloor(path, options.min_free_space_bytes)
        embedded = self.config.embedded.postgres_path
        of_database = [DiskFloor(Path(embedded), options.min_free_space_bytes)] if embedded else []
        self.disk_floors = (own, *of_database)

        async def staged_bytes() -> int:
            return (await self.uploads.staging_level()).bytes_at(None)

        limit = options.max_staging_size_bytes or NO_BOUND
        uses_disk = options.staging == "disk"
        in_database = StagingBound(limit, staged_bytes, floors=of_database)
        on_disk = StagingBound(limit, lambda: disk_level(path), floors=self.disk_floors)
        self.staging_bound = on_disk if uses_disk else in_database
        return StagingAreas(
            DatabaseStaging(self.uploads, in_database),
            DiskStaging(path, self.staging_name, on_disk, keep_s=options.cleanup_grace_period_s),
            use_disk=uses_disk,
        )

    @property
    def staging_place(self) -> str | None:
        """Where new bodies wait and ``uploader.max_staging_size`` counts, as in StagingPlace.node."""
        return self.staging_name if self.config.uploader.staging == "disk" else None

    def _open_cache(self) -> BodyCache | None:
        local = self.config.local_cache
        if not local.capacity_bytes:
            return None
        cache = BodyCache(Path(local.path), local.capacity_bytes, local.max_object_size_bytes)
        cache.open()
        self.exit.callback(cache.close)
        return cache


def body_codec(config: Config) -> Codec:
    """Writes bodies as the configuration says, and reads those under earlier keys."""
    s3 = config.s3
    keys = KeyRing(
        s3.encryption_key.reveal() if s3.encrypt else None,
        [key.reveal() for key in (s3.encryption_key, *s3.previous_encryption_keys) if key],
    )
    return Codec(keys, compress=s3.compress)


def object_store(config: Config) -> FileBlobStore | S3BlobStore:
    s3 = config.s3
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
