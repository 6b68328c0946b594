"""``sora-admin uploader``: what waits for the object store."""

from __future__ import annotations

import time
from pathlib import Path

import click

from node.core import body_codec
from node.units import format_duration
from storage.adoption import Adoption, AdoptionReport, Fate
from storage.model import StagingLevel, StagingPlace
from storage.postgres.uploads import PostgresUploadStore

from .access import Access, Stores, read_config, with_access
from .failure import EXIT_CODES
from .output import show_size, table

SHOWN_FILES = 100
_WORDS = {
    Fate.ADOPTED: "taken into the database",
    Fate.HERE: "in the database already",
    Fate.STORED: "in the object store already",
    Fate.UNKNOWN: "of no message of this database",
    Fate.DAMAGED: "damaged, or sealed with a key that the configuration does not have",
}


@click.group(epilog=EXIT_CODES)
def uploader() -> None:
    """New bodies on their way to the object store."""


@uploader.command(epilog="\b\nExample:\n  sora-admin uploader status --json")
@with_access
def status(access: Access) -> None:
    """How many bodies are staged, their size, the age of the oldest, and where they wait."""

    async def look(stores: Stores) -> StagingLevel:
        return await PostgresUploadStore(stores.database).staging_level()

    level = access.run(look)
    data = {
        "staged": level.contents,
        "encoded_bytes": level.encoded_bytes,
        "oldest_age_s": round(level.oldest_age_s, 3),
        "places": [
            {
                "node": place.node,
                "staged": place.contents,
                "encoded_bytes": place.encoded_bytes,
                "oldest_age_s": round(place.oldest_age_s, 3),
            }
            for place in level.places
        ],
    }
    text = "nothing waits for upload"
    if level.contents:
        text = (
            f"{level.contents} bodies ({show_size(level.encoded_bytes)}) wait for upload,"
            f" the oldest for {level.oldest_age_s:.0f} s"
        )
        text += "\n\n" + table(("WHERE", "BODIES", "SIZE", "OLDEST"), [_row(place) for place in level.places])
    access.answer(data, text)


def _row(place: StagingPlace) -> tuple[object, ...]:
    where = "the database" if place.node is None else f"disk of {place.node}"
    age = format_duration(float(int(place.oldest_age_s)))
    return (where, place.contents, show_size(place.encoded_bytes), age)


@uploader.command(
    epilog="\b\nExamples:\n  sora-admin uploader adopt /mnt/old-node/var/lib/sora/staging\n"
    "  sora-admin uploader adopt --remove /mnt/old-node/var/lib/sora/staging"
)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--remove", is_flag=True, help="Delete files whose body is in the database or object store.")
@with_access
def adopt(access: Access, directory: Path, remove: bool) -> None:
    """Save the bodies in DIRECTORY, the uploader.path of a node that is gone.

    Those that messages wait for go into the database, and any node uploads them. The rest is only told of;
    nothing is deleted without --remove. It may run beside nodes, be interrupted and be run again.
    """
    codec = body_codec(read_config(access.config))
    started = time.monotonic()

    async def take(stores: Stores) -> AdoptionReport:
        uploads = PostgresUploadStore(stores.database)
        return await Adoption(uploads, codec, directory.resolve(), remove=remove).run()

    report = access.run(take)
    data = {
        **{fate.value: count for fate, count in report.counts.items()},
        "adopted_bytes": report.adopted_bytes,
        "removed": report.removed,
        "left": [{"file": str(path), "why": fate.value} for path, fate in report.left],
    }
    lines = [f"{count:8} {_WORDS[fate]}" for fate, count in report.counts.items() if count]
    lines = lines or ["there is no staged body"]
    if remove:
        lines.append(f"{report.removed:8} files deleted")
    lines += [f"{fate.value}: {path}" for path, fate in report.left[:SHOWN_FILES]]
    if len(report.left) > SHOWN_FILES:
        lines.append(f"... and {len(report.left) - SHOWN_FILES} more: --json has them all")
    lines.append(f"{show_size(report.adopted_bytes)} in {time.monotonic() - started:.1f} s")
    access.answer(data, "\n".join(lines))
