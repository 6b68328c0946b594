"""From ``--config`` to open stores, for commands that work straight on the database."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import click

from node.config import Config, Problem
from node.database import settings_from
from node.feed import announce, feed_directory
from storage.errors import StorageError
from storage.model import AccountId
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.migrate import MigrationError, migrate
from storage.postgres.pool import Database, DatabaseSettings
from storage.postgres.scripts import PostgresScriptStore
from storage.postgres.store import PostgresMailStore

from .failure import USAGE, Failure, from_postgres, from_storage
from .load import Unreadable, read
from .output import print_json, print_text

T = TypeVar("T")

CONFIG_VARIABLE = "SORA_CONFIG"
CONFIG_PLACES = (Path("config.toml"), Path("/etc/sora/config.toml"))


@dataclass(frozen=True, slots=True)
class Stores:
    database: Database
    accounts: PostgresAccountStore
    mail: PostgresMailStore
    scripts: PostgresScriptStore


@dataclass(frozen=True, slots=True)
class Access:
    """What the options of a command say about where to work and how to answer."""

    config: Path | None
    as_json: bool

    def run(self, action: Callable[[Stores], Awaitable[T]]) -> T:
        """Run ``action`` on open stores of a database with the right schema. Raises Failure."""
        directory = feed_directory(read_config(self.config))
        return self.run_on_database(functools.partial(_with_stores, action, directory))

    def run_on_database(self, action: Callable[[DatabaseSettings], Awaitable[T]]) -> T:
        """The same without looking at the schema. Raises Failure."""
        config = read_config(self.config)
        settings = settings_from(config)

        async def run() -> T:
            return await action(settings)

        try:
            return asyncio.run(run())
        except StorageError as error:
            raise from_storage(error, is_embedded=bool(config.embedded.postgres_path)) from error
        except MigrationError as error:
            raise Failure(str(error)) from error
        except asyncpg.PostgresError as error:
            raise from_postgres(error) from error

    def answer(self, data: object, text: str) -> None:
        """Print ``data`` for ``--json``, else ``text``."""
        if self.as_json:
            print_json(data)
        else:
            print_text(text)


async def _with_stores(action: Callable[[Stores], Awaitable[T]], feed: Path, settings: DatabaseSettings) -> T:
    missing = await migrate(settings, dry_run=True)
    if missing:
        raise Failure(
            f"the database lacks the schema {', '.join(missing)}:"
            " run 'sora-admin migrate up', or start 'sora-node run' once"
        )
    database = await Database.open(settings)
    try:
        stores = Stores(
            database,
            PostgresAccountStore(database),
            PostgresMailStore(database),
            PostgresScriptStore(database, functools.partial(_announce, feed)),
        )
        return await action(stores)
    finally:
        await database.close()


def _announce(feed: Path, account_id: AccountId) -> None:
    """The node of this host, if there is one, tells the others."""
    try:
        announce(feed, account_id)
    except OSError as error:
        click.echo(f"note: the node was not told ({error.strerror}); it will see it within 10 s", err=True)


def read_config(given: Path | None) -> Config:
    """The configuration from the option, the environment or the usual places. Raises Failure."""
    path = given or _usual_place()
    try:
        loaded = read(path)
    except Unreadable as error:
        raise Failure(f"cannot read the configuration {error}", USAGE) from error
    if loaded.config is None:
        errors = [each for each in loaded.problems if each.severity == "error"]
        raise Failure("\n".join(_explain(path, each) for each in errors), USAGE)
    return loaded.config


def _usual_place() -> Path:
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    for path in CONFIG_PLACES:
        if path.exists():
            return path
    places = " and ".join(map(str, CONFIG_PLACES))
    raise Failure(
        f"no configuration: give --config FILE or set {CONFIG_VARIABLE} (looked for {places})", USAGE
    )


def _explain(path: Path, problem: Problem) -> str:
    where = f"{path}:{problem.line}" if problem.line else str(path)
    cure = f" ({problem.suggestion})" if problem.suggestion else ""
    return f"{where}: {problem.key}: {problem.message}{cure}"


_CONFIG = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    help=f"Configuration file. Default: ${CONFIG_VARIABLE}, ./config.toml, /etc/sora/config.toml.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def with_access(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--config`` and ``--json``; the command gets an Access as its first argument.

    ``--config`` before the group's name holds for every command.
    """

    def call(config: Path | None, as_json: bool, **arguments: Any) -> None:
        shared = click.get_current_context().find_root().params.get("config")
        command(Access(config or shared, as_json), **arguments)

    wrapped = functools.update_wrapper(call, command)
    for add_option in (_JSON, _CONFIG):
        wrapped = add_option(wrapped)
    return wrapped
