"""``sora-admin cleaner``, on a real database and object directory."""

from __future__ import annotations

from storage.postgres.pool import Database

from .conftest import Admin
from .test_admin_messages import ANN, expunged, on_database

__all__ = ["expunged"]


async def _age(database: Database) -> None:
    await database.write("UPDATE expunged SET expunged_at = now() - interval '15 days'")


def test_within_the_grace_period_nothing_is_due(expunged: Admin) -> None:
    assert set(expunged.json("cleaner", "run", "--dry-run").values()) == {0}
    assert set(expunged.json("cleaner", "run").values()) == {0}
    assert len(expunged.json("messages", "deleted", ANN)) == 3


def test_a_dry_run_counts_and_deletes_nothing(expunged: Admin) -> None:
    on_database(expunged, _age)
    for _ in range(2):
        due = expunged.json("cleaner", "run", "--dry-run")
        assert {name: count for name, count in due.items() if count} == {"messages": 3}


def test_a_run_goes_all_the_way(expunged: Admin) -> None:
    on_database(expunged, _age)
    done = expunged.json("cleaner", "run")
    assert (done["messages"], done["contents"], done["objects"], done["left"]) == (3, 3, 3, 0)
    assert expunged.json("messages", "deleted", ANN) == []
    text = expunged("cleaner", "run").stdout
    assert "delivery keys: 0" in text
