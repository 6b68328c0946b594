"""How a command fails: one line that names the cause and the cure, and an exit code that scripts can use."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg
import click

from storage.errors import (
    AlreadyExists,
    CommitUnknown,
    InvalidName,
    NotFound,
    StorageError,
    Unavailable,
)

OK, FAILED, USAGE, NOT_FOUND, EXISTS, UNAVAILABLE = range(6)
EXIT_CODES = """\b
Exit codes:
  0  done
  1  refused or failed
  2  wrong usage or configuration
  3  not found
  4  exists already
  5  the database cannot be used now; trying again later may help"""

_CODES: Mapping[type[StorageError], int] = {
    NotFound: NOT_FOUND,
    AlreadyExists: EXISTS,
    InvalidName: USAGE,
    Unavailable: UNAVAILABLE,
    CommitUnknown: UNAVAILABLE,
}
_CURES: Mapping[str, str] = {
    "3D000": "create it (createdb), or correct database.write.name",
    "42501": "grant the user of database.write.user its rights on the tables, or let it own them",
}


class Failure(click.ClickException):
    """``message`` is for people; no traceback is shown."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def from_storage(error: StorageError, *, is_embedded: bool) -> Failure:
    """``is_embedded``: the database is the node's own and only runs while the node does."""
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILED)
    text = str(error)
    if isinstance(error, CommitUnknown):
        text += "\nThe change may or may not have been made: look before you try again."
    elif isinstance(error, Unavailable) and is_embedded:
        text += (
            "\nThis database runs only while its node does: start 'sora-node run' with this configuration."
        )
    elif isinstance(error.__cause__, asyncpg.PostgresError) and error.__cause__.sqlstate in _CURES:
        text += f"\n{_CURES[error.__cause__.sqlstate]}"
    elif isinstance(error, Unavailable):
        text += "\nIs PostgreSQL running, and are database.write.hosts, user and password right?"
    return Failure(text, code)


def from_postgres(error: asyncpg.PostgresError) -> Failure:
    cure = _CURES.get(error.sqlstate or "", "")
    return Failure(f"PostgreSQL: {error}" + (f"\n{cure}" if cure else ""))
