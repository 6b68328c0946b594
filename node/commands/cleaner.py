"""``sora-admin cleaner``: deleting for good what is past its grace period, now."""

from __future__ import annotations

from dataclasses import asdict

import click

from node.background import cleaner_settings
from node.core import object_store
from storage.cleaner import STAGES, Cleaner
from storage.postgres.purge import PostgresPurgeStore

from .access import Access, Stores, read_config, with_access
from .failure import EXIT_CODES
from .output import fields

_EXAMPLES = "\b\nExamples:\n  sora-admin cleaner run --dry-run\n  sora-admin cleaner run --json"


@click.group(epilog=EXIT_CODES)
def cleaner() -> None:
    """The clean-up, which runs by itself every cleanup.wake_interval."""


@cleaner.command(epilog=_EXAMPLES + "\n\n" + EXIT_CODES)
@click.option("--dry-run", is_flag=True, help="Only count what is due, by table rows; delete nothing.")
@with_access
def run(access: Access, dry_run: bool) -> None:
    """Clean up now, by the configuration's [cleanup], until nothing is left or ten minutes are over.

    A node that cleans at the same time does no harm.
    """
    config = read_config(access.config)
    settings = cleaner_settings(config.cleanup)

    async def clean(stores: Stores) -> dict[str, int]:
        purge = PostgresPurgeStore(stores.database)
        if dry_run:
            return await purge.due(settings.grace, settings.max_age)
        done = Cleaner(purge, object_store(config), settings)
        await done.step()
        return {name: asdict(done.counters)[name] for name in STAGES} | {"left": done.counters.out_of_time}

    found = access.run(clean)
    access.answer(found, fields({name.replace("_", " "): count for name, count in found.items()}))
