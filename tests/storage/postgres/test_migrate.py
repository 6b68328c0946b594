"""Migrations on a bare database, by one starter and by several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from storage.postgres.migrate import Migration, MigrationError, migrate, pending, shipped
from storage.postgres.pool import Database, DatabaseSettings, EndpointSettings

from ...support.postgres import SharedServer

_CONTENT = """
INSERT INTO contents (hash, size_bytes, header, envelope, structure) VALUES ($1, 4, '', '', '')
RETURNING id"""


@pytest.fixture
def bare(pg_server: SharedServer) -> Iterator[EndpointSettings]:
    endpoint = pg_server.new_database(template=None)
    yield endpoint
    pg_server.drop_database(endpoint)


async def test_several_starters_apply_everything_once(bare: EndpointSettings) -> None:
    outcomes = await asyncio.gather(*(migrate(bare) for _ in range(4)))
    labels = [migration.label for migration in shipped()]
    assert sorted(outcomes) == [[], [], [], labels]
    assert await migrate(DatabaseSettings(write=bare)) == []


async def test_dry_run_changes_nothing(bare: EndpointSettings) -> None:
    first = await migrate(bare, dry_run=True)
    assert first == await migrate(bare, dry_run=True) == [migration.label for migration in shipped()]


async def test_a_failing_file_leaves_nothing_of_itself(bare: EndpointSettings) -> None:
    good = Migration(1, "good", "CREATE TABLE good (id int);")
    bad = Migration(2, "bad", "CREATE TABLE half (id int); SELECT nonsense;")
    with pytest.raises(MigrationError, match="0002_bad"):
        await migrate(bare, migrations=[good, bad])
    database = await Database.open(DatabaseSettings(write=bare))
    rows = await database.read("SELECT to_regclass('good') AS good, to_regclass('half') AS half")
    await database.close()
    assert rows[0]["good"] == "good"
    assert rows[0]["half"] is None


async def test_outside_a_transaction(bare: EndpointSettings) -> None:
    table = Migration(1, "table", "CREATE TABLE t (id int);")
    index = Migration(2, "index", "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (id);\n")
    assert await migrate(bare, migrations=[table, index]) == ["0001_table", "0002_index"]


async def test_frames_that_an_older_version_left_behind_are_dropped(bare: EndpointSettings) -> None:
    """Their content is stored; frames of a content that waits stay, and go with its row from then on."""
    before = [migration for migration in shipped() if migration.version < 8]
    await migrate(bare, migrations=before)
    database = await Database.open(DatabaseSettings(write=bare))
    ids = [(await database.write(_CONTENT, bytes([n]) * 32, mailboxes=()))[0]["id"] for n in range(2)]
    await database.write("INSERT INTO staged_contents (content_id, encoded_bytes) VALUES ($1, 4)", ids[0])
    await database.write("INSERT INTO staged_frames SELECT unnest($1::bigint[]), 1, 'body'", ids)
    assert len(await migrate(bare)) == len(shipped()) - len(before)
    assert [row[0] for row in await database.read("SELECT content_id FROM staged_frames")] == ids[:1]
    await database.write("DELETE FROM contents WHERE id = $1", ids[0])
    assert await database.read("SELECT FROM staged_frames") == []
    await database.close()


def test_checksum_and_newer_schema_are_refused() -> None:
    ours = Migration(1, "one", "SELECT 1;")
    assert pending([ours], {}) == [ours]
    assert pending([ours], {1: ("one", ours.checksum)}) == []
    with pytest.raises(MigrationError, match="differs"):
        pending([ours], {1: ("one", "other")})
    with pytest.raises(MigrationError, match="newer"):
        pending([ours], {1: ("one", ours.checksum), 2: ("two", "x")})


async def test_staging_tables_are_vacuumed_soon_and_without_pauses(database: Database) -> None:
    """Their bodies are in the table behind, which has settings of its own."""
    rows = await database.read(
        "SELECT c.relname, c.reloptions, t.reloptions AS behind FROM pg_class c"
        " LEFT JOIN pg_class t ON t.oid = c.reltoastrelid"
        " WHERE c.relname IN ('staged_contents', 'staged_frames')"
    )
    options = {row["relname"]: set(row["reloptions"]) for row in rows}
    (behind,) = [set(row["behind"]) for row in rows if row["relname"] == "staged_frames"]
    for found in (*options.values(), behind):
        assert found >= {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_cost_delay=0"}
    assert "autovacuum_vacuum_threshold=4000" in behind
