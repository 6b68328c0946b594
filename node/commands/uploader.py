"""``sora-admin uploader``: what waits for the object store."""

from __future__ import annotations

import click

from storage.model import StagingLevel
from storage.postgres.uploads import PostgresUploadStore

from .access import Access, Stores, with_access
from .failure import EXIT_CODES
from .output import show_size


@click.group(epilog=EXIT_CODES)
def uploader() -> None:
    """New bodies on their way to the object store."""


@uploader.command(epilog="\b\nExample:\n  sora-admin uploader status --json")
@with_access
def status(access: Access) -> None:
    """How many bodies are staged, their size, and the age of the oldest."""

    async def look(stores: Stores) -> StagingLevel:
        return await PostgresUploadStore(stores.database).staging_level()

    level = access.run(look)
    data = {
        "staged": level.contents,
        "encoded_bytes": level.encoded_bytes,
        "oldest_age_s": round(level.oldest_age_s, 3),
    }
    text = "nothing waits for upload"
    if level.contents:
        text = (
            f"{level.contents} bodies ({show_size(level.encoded_bytes)}) wait for upload,"
            f" the oldest for {level.oldest_age_s:.0f} s"
        )
    access.answer(data, text)
