"""``sora-admin migrate``."""

from __future__ import annotations

import functools

import click

from storage.postgres.migrate import migrate, shipped

from .access import Access, read_config, with_access
from .failure import EXIT_CODES, FAILED


@click.group("migrate", epilog=EXIT_CODES)
def migrations() -> None:
    """The database schema. Nodes bring it up to date by themselves when they start."""


@migrations.command(epilog="\b\nExample:\n  sora-admin migrate up")
@with_access
def up(access: Access) -> None:
    """Bring the schema up to date; harmless when it is, and while nodes run."""
    timeout_s = read_config(access.config).database.migration_timeout_s
    applied = access.run_on_database(functools.partial(migrate, timeout_s=timeout_s))
    access.answer({"applied": applied}, "\n".join(f"applied {each}" for each in applied) or "up to date")


@migrations.command(
    epilog="Exits with 1 when something is pending.\n\n\b\nExample:\n  sora-admin migrate status"
)
@with_access
def status(access: Access) -> None:
    """Say which migrations are applied and which are pending."""
    pending = access.run_on_database(functools.partial(migrate, dry_run=True))
    applied = [each.label for each in shipped() if each.label not in pending]
    lines = [f"applied {each}" for each in applied] + [f"pending {each}" for each in pending]
    access.answer({"applied": applied, "pending": pending}, "\n".join(lines))
    if pending:
        raise SystemExit(FAILED)
