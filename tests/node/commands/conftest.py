"""Commands as a user runs them: arguments in, output and exit code out, on a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.admin import main
from storage.postgres.settings import EndpointSettings
from tests.support.postgres import SharedServer, empty

CONFIG = """
[database.write]
hosts = ["{host}"]
port = {port}
user = "{user}"
password = "{password}"
name = "{name}"
max_connections = 4

[s3]
driver = "file"
path = "{directory}/objects"
"""


def write_config(path: Path, endpoint: EndpointSettings, **changes: object) -> Path:
    host, port = endpoint.hosts[0]
    values: dict[str, object] = {
        "host": host,
        "port": port,
        "user": endpoint.user,
        "password": endpoint.password,
        "name": endpoint.database,
        "directory": path.parent,
    }
    path.write_text(CONFIG.format(**{**values, **changes}))
    return path


@dataclass
class Admin:
    """Calls ``sora-admin --config FILE ...``."""

    config: Path
    endpoint: EndpointSettings

    def __call__(self, *arguments: str, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(main, ["--config", str(self.config), *arguments], input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert "Traceback" not in result.output
        return result

    def json(self, *arguments: str) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="module")
def admin_endpoint(pg_server: SharedServer) -> Iterator[EndpointSettings]:
    endpoint = pg_server.new_database()
    yield endpoint
    pg_server.drop_database(endpoint)


@pytest.fixture
def admin(admin_endpoint: EndpointSettings, tmp_path: Path) -> Admin:
    asyncio.run(empty(admin_endpoint))
    return Admin(write_config(tmp_path / "config.toml", admin_endpoint), admin_endpoint)


@pytest.fixture
def stored_hash(admin: Admin) -> Callable[[str], str]:
    """The hash of an address as it is in the database."""
    from storage.postgres.accounts import PostgresAccountStore
    from storage.postgres.pool import Database, DatabaseSettings

    async def read(address: str) -> str:
        database = await Database.open(DatabaseSettings(write=admin.endpoint))
        try:
            found = await PostgresAccountStore(database).login(address)
        finally:
            await database.close()
        assert found is not None
        return found[0].password_hash

    return lambda address: asyncio.run(read(address))
