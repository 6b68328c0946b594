"""Bring a database to the schema of this program.

Files are ``schema/NNNN_name.sql``, applied in order, each in one transaction together with its row in
``schema_migrations`` (a file that begins with ``-- no transaction`` runs statement by statement outside of
one, for concurrent index builds, and must be safe to run again). Files that have shipped never change:
checksums are compared. Many nodes may start at once: one holds the advisory lock, the others wait, then
find the work done.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import asyncpg

from .connections import Connection, HostList, connect_options
from .errors import Phase, translated
from .settings import DatabaseSettings, EndpointSettings

ADVISORY_LOCK = 0x534F5241  # "SORA"
LOCK_POLL_S = 0.05
NO_TRANSACTION = "-- no transaction"
_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_CREATE_LOG = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


class MigrationError(Exception):
    """The database and this program do not fit together; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def label(self) -> str:
        return f"{self.version:04}_{self.name}"

    @property
    def is_transactional(self) -> bool:
        return not self.sql.startswith(NO_TRANSACTION)


def shipped() -> list[Migration]:
    """The migrations of this program, in order."""
    found = []
    for entry in resources.files("storage.postgres").joinpath("schema").iterdir():
        match = _FILE.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match["version"]), match["name"], entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def pending(migrations: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """What is left to do. ``applied``: version to (name, checksum). Raises MigrationError."""
    known = {migration.version: migration for migration in migrations}
    for version, (name, checksum) in sorted(applied.items()):
        if version not in known:
            raise MigrationError(
                f"the database has schema {version:04}_{name}, which is newer than this program: update it"
            )
        if known[version].checksum != checksum:
            raise MigrationError(
                f"migration {known[version].label} differs from the one this database was made with"
            )
    return [migration for migration in migrations if migration.version not in applied]


async def migrate(
    settings: DatabaseSettings | EndpointSettings,
    timeout_s: float = 120.0,
    *,
    dry_run: bool = False,
    migrations: Sequence[Migration] | None = None,
) -> list[str]:
    """Apply what is missing and return its labels; with ``dry_run`` only say what would be applied.

    Raises MigrationError (also when another starter does not finish within ``timeout_s``), Unavailable.
    """
    endpoint = settings.write if isinstance(settings, DatabaseSettings) else settings
    migrations = shipped() if migrations is None else migrations
    hosts = HostList(endpoint.hosts, connect_options(endpoint, {}), must_accept_writes=True)
    connection = await hosts.connect()
    try:
        async with asyncio.timeout(timeout_s):
            with translated(Phase.NOTHING_WRITTEN):
                return await _migrate(connection, migrations, dry_run=dry_run)
    except TimeoutError as error:
        raise MigrationError(
            f"migrating took longer than {timeout_s:g} s, nothing half-done is left"
        ) from error
    finally:
        connection.terminate()  # also gives the advisory lock back


async def _migrate(connection: Connection, migrations: Sequence[Migration], *, dry_run: bool) -> list[str]:
    if dry_run:
        return [migration.label for migration in pending(migrations, await _applied(connection))]
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
        await asyncio.sleep(LOCK_POLL_S)  # polled: a waiting statement would block concurrent index builds
    await connection.execute(_CREATE_LOG)
    todo = pending(migrations, await _applied(connection))
    for migration in todo:
        await _apply(connection, migration)
    return [migration.label for migration in todo]


async def _applied(connection: Connection) -> dict[int, tuple[str, str]]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT version, name, checksum FROM schema_migrations")
    return {row["version"]: (row["name"], row["checksum"]) for row in rows}


async def _apply(connection: Connection, migration: Migration) -> None:
    record = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"
    args = (migration.version, migration.name, migration.checksum)
    try:
        if migration.is_transactional:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(record, *args)
            return
        for statement in migration.sql.split(";\n"):
            if statement.strip():
                await connection.execute(statement)
        await connection.execute(record, *args)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"migration {migration.label} failed: {error}") from error
