"""An audit of everything that the configuration points to, from this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from storage.audit.bodies import BodyAudit, Progress
from storage.audit.copies import Copies
from storage.audit.findings import Report
from storage.audit.rows import Here, RowAudit
from storage.objects.cache import BodyCache
from storage.postgres.auditing import PostgresAudit
from storage.postgres.uploads import PostgresUploadStore
from storage.staging import IDENTITY_FILE

from .core import body_codec, object_store

if TYPE_CHECKING:
    from storage.model import AccountId
    from storage.postgres.pool import Database

    from .config import Config


async def audit(
    config: Config,
    database: Database,
    *,
    account_id: AccountId | None,
    is_deep: bool,
    repairs: bool,
    progress: Progress,
) -> Report:
    """``account_id``: only what this one's mail needs; orphans are not looked for then.

    Raises StorageError.
    """
    report = Report()
    questions, uploads = PostgresAudit(database), PostgresUploadStore(database)
    codec, cache = body_codec(config), _open_cache(config)
    staging = Path(config.uploader.path)
    try:
        copies = Copies(codec, *([cache.root] if cache else []), staging)
        here = Here(_node_name(config, staging), staging, cache, config.uploader.max_attempts)
        rows = RowAudit(
            questions,
            uploads,
            copies,
            here,
            report,
            account_id=account_id,
            is_deep=is_deep,
            repairs=repairs,
            progress=progress,
        )
        bodies = BodyAudit(
            questions,
            uploads,
            object_store(config),
            codec,
            copies,
            report,
            is_deep=is_deep,
            repairs=repairs,
            progress=progress,
        )
        await rows.run()
        if account_id is None:
            await bodies.run()
        else:
            await bodies.run_account(account_id)
    finally:
        if cache is not None:
            cache.close()
    return report


def _node_name(config: Config, staging: Path) -> str:
    """Under which this machine's staged bodies are queued."""
    try:
        known = (staging / IDENTITY_FILE).read_text().strip()
    except OSError:  # no node has staged here, or not for us to read
        known = ""
    return known or config.uploader.instance_id or socket.gethostname()


def _open_cache(config: Config) -> BodyCache | None:
    """None where no node has made one: its files must be the node's user's."""
    local = config.local_cache
    if not local.capacity_bytes or not (Path(local.path) / ".lock").exists():
        return None
    cache = BodyCache(Path(local.path), local.capacity_bytes, local.max_object_size_bytes)
    cache.open()
    return cache
