"""Everybody at once; see ``tests.support.storm``. ``SORA_STORM=100`` runs so many seeds more, from
``SORA_STORM_FROM`` on, with more operations each."""

from __future__ import annotations

import os
import random

import pytest

from storage.postgres.pool import DatabaseSettings

from ...support.storm import SlowDatabase, Storm

FIRST = int(os.environ.get("SORA_STORM_FROM", "100"))
MORE = range(FIRST, FIRST + int(os.environ.get("SORA_STORM", "0")))


@pytest.mark.parametrize("seed", [1, 2, *MORE])
async def test_everybody_at_once(pg_settings: DatabaseSettings, seed: int) -> None:
    database = SlowDatabase(pg_settings, random.Random(seed))
    try:
        storm = Storm(database)
        await storm.run(actors=12, operations=60 if seed in MORE else 15)
        print(f"seed {seed}: {storm.done} operations, {storm.refused} refused, {dict(database.stats)}")
    finally:
        await database.close()
