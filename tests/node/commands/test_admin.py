"""``sora-admin`` itself: configuration, schema, unreachable databases, help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from node.admin import main
from storage.postgres.settings import EndpointSettings
from tests.support.postgres import SharedServer

from .conftest import Admin, write_config


@pytest.fixture
def bare(pg_server: SharedServer, tmp_path: Path) -> Iterator[Admin]:
    """A database without schema."""
    endpoint = pg_server.new_database(template=None)
    yield Admin(write_config(tmp_path / "config.toml", endpoint), endpoint)
    pg_server.drop_database(endpoint)


def test_without_schema_the_message_names_the_cure_and_migrate_is_it(bare: Admin) -> None:
    result = bare("accounts", "list")
    assert result.exit_code == 1
    assert "sora-admin migrate up" in result.stderr
    status = bare("migrate", "status")
    assert status.exit_code == 1
    assert "pending 0001_base" in status.stdout
    applied = bare.json("migrate", "up")["applied"]
    assert applied[0] == "0001_base"
    assert bare("migrate", "up").stdout == "up to date\n"
    assert bare.json("migrate", "status") == {"applied": applied, "pending": []}
    assert bare("accounts", "list").exit_code == 0


def test_a_database_from_the_future_is_left_alone(admin: Admin) -> None:
    import asyncio

    from storage.postgres.pool import Database, DatabaseSettings

    async def execute(sql: str) -> None:
        database = await Database.open(DatabaseSettings(write=admin.endpoint))
        await database.write(sql)
        await database.close()

    asyncio.run(
        execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x') RETURNING 1"
        )
    )
    try:
        for arguments in (["accounts", "list"], ["migrate", "up"], ["migrate", "status"]):
            result = admin(*arguments)
            assert result.exit_code == 1
            assert "newer than this program" in result.stderr
    finally:
        asyncio.run(execute("DELETE FROM schema_migrations WHERE version = 9999 RETURNING 1"))


def test_a_server_that_is_away_is_exit_code_5(tmp_path: Path) -> None:
    endpoint = EndpointSettings(((str(tmp_path), 5432),), "sora", "pg-secret", "sora")
    result = Admin(write_config(tmp_path / "config.toml", endpoint), endpoint)("accounts", "list")
    assert result.exit_code == 5
    assert "database.write.hosts" in result.stderr
    assert "pg-secret" not in result.stderr


def test_an_embedded_server_that_is_away_belongs_to_its_node(tmp_path: Path) -> None:
    endpoint = EndpointSettings(((str(tmp_path), 5432),), "sora", "pg-secret", "sora")
    config = write_config(tmp_path / "config.toml", endpoint)
    config.write_text(config.read_text() + f'\n[embedded]\npostgres_path = "{tmp_path}/postgres"\n')
    result = Admin(config, endpoint)("accounts", "list")
    assert result.exit_code == 5
    assert "sora-node run" in result.stderr


def test_a_wrong_database_password(admin: Admin, tmp_path: Path) -> None:
    config = write_config(tmp_path / "wrong.toml", replace(admin.endpoint, password="not-it"))
    result = Admin(config, admin.endpoint)("accounts", "list")
    assert result.exit_code == 5
    assert "password authentication failed" in result.stderr
    assert "not-it" not in result.stderr


def test_a_database_that_does_not_exist(admin: Admin, tmp_path: Path) -> None:
    config = write_config(tmp_path / "wrong.toml", replace(admin.endpoint, database="nowhere"))
    result = Admin(config, admin.endpoint)("accounts", "list")
    assert result.exit_code == 5
    assert "database.write.name" in result.stderr


def test_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORA_CONFIG", raising=False)
    monkeypatch.setattr("node.commands.access.CONFIG_PLACES", (Path("config.toml"), tmp_path / "etc.toml"))
    result = CliRunner().invoke(main, ["accounts", "list"])
    assert result.exit_code == 2
    assert "SORA_CONFIG" in result.stderr
    result = CliRunner().invoke(main, ["accounts", "list", "--config", "missing.toml"])
    assert result.exit_code == 2
    assert "missing.toml" in result.stderr


@pytest.mark.parametrize("how", ["option", "option of the command", "environment", "directory"])
def test_where_the_configuration_comes_from(admin: Admin, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(admin.config)
    monkeypatch.delenv("SORA_CONFIG", raising=False)
    arguments = ["accounts", "list", "--json"]
    if how == "option":
        arguments = ["-c", config, *arguments]
    elif how == "option of the command":
        arguments += ["--config", config]
    elif how == "environment":
        monkeypatch.setenv("SORA_CONFIG", config)
    else:
        monkeypatch.chdir(admin.config.parent)
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (0, "[]\n")


def test_a_broken_configuration_names_the_place(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[database.write]\nport = 'many'\nhosts = [\n")
    result = CliRunner().invoke(main, ["-c", str(config), "accounts", "list"])
    assert result.exit_code == 2
    assert str(config) in result.stderr
    assert "Traceback" not in result.output


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


@pytest.mark.parametrize("path", [(), *every_command(main)], ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 4
    if len(path) < 2:
        assert "Exit codes:" in result.stdout
    else:
        assert "--json" in result.stdout
