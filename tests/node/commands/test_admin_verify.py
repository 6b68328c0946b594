"""``sora-admin verify``: exit codes, what it prints, and that it changes nothing unless told."""

from __future__ import annotations

import json

from storage.postgres.pool import Database

from .conftest import Admin
from .test_admin_messages import ANN, expunged, on_database

__all__ = ["expunged"]


async def _break(database: Database) -> None:
    await database.write("UPDATE mailboxes SET messages = messages + 1 WHERE name = 'INBOX'")
    await database.write("DELETE FROM staged_frames WHERE content_id = (SELECT min(id) FROM contents)")


def test_all_is_well(expunged: Admin) -> None:
    found = expunged.json("verify")
    assert (found["left"], found["findings"], found["seen"]["contents"]) == (0, [], 5)
    assert "everything is as it should be" in expunged("verify", "--repair").stdout


def test_what_is_wrong_is_told_and_kept(expunged: Admin) -> None:
    on_database(expunged, _break)
    for _ in range(2):
        result = expunged("verify")
        assert result.exit_code == 6
        assert "1 mailboxes whose counters differ" in result.stdout
        assert "--repair: recounted" in result.stdout
        assert "messages 3, really 2" in result.stdout


def test_what_is_safe_is_repaired_and_the_rest_explained(expunged: Admin) -> None:
    on_database(expunged, _break)
    result = expunged("verify", "--repair", "--json")
    assert result.exit_code == 6  # of the body there is no copy
    found = {
        each["kind"]: (each["found"], each["repaired"]) for each in json.loads(result.stdout)["findings"]
    }
    assert found == {"counters": (1, 1), "staged_without_body": (1, 0)}
    assert "restore a backup" in expunged("verify").stdout


def test_one_account(expunged: Admin) -> None:
    assert expunged.json("verify", "--account", ANN)["seen"]["contents"] == 5
    assert expunged("verify", "--account", "nobody@example.org").exit_code == 3


def test_bodies_that_do_not_decode(expunged: Admin) -> None:
    result = expunged("verify", "--deep")  # what the fixture staged is no encoded body
    assert result.exit_code == 6
    assert "5 staged bodies that are not where they should be" in result.stdout
