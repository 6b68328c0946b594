"""``sora-node certs`` as people and programs see it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.cli import cli
from node.commands import certs as command

SOON = (datetime.now(UTC) + timedelta(days=60, hours=1)).isoformat()
LINE: dict[str, Any] = {
    "id": "0123456789abcdef",
    "names": ["imap.example.com", "mail.example.com"],
    "key_type": "ecdsa-p256",
    "state": "ok",
    "note": "",
    "renew_at": SOON,
    "blocked_until": None,
    "fence": 1_800_000_000,
    "not_before": SOON,
    "not_after": SOON,
    "fingerprint": "ab" * 32,
    "issuer": "CN=Issuer",
    "ca": "https://ca.example/dir",
}
SIGHT = {
    "node": "node-2",
    "port": "993",
    "name": "imap.example.com",
    "fingerprint": "cd" * 32,
    "not_after": SOON,
    "trouble": "",
    "seen_by": "node-1",
    "agrees": False,
}
LIST = {"node": "node-1", "bucket": "", "synced_at": SOON, "certificates": [LINE], "shown": [SIGHT]}
TRIED = {
    "failures": 2,
    "blocked_until": SOON,
    "blocked_why": "x",
    "last_failure": "validation: connection refused",
    "last_failure_at": SOON,
    "last_success_at": None,
    "suggested_at": None,
}
DONE = {"done": True, "result": "issued", "text": "", "until": None, "fence": 7, "not_after": SOON}
FAILED = {
    "done": False,
    "result": "failed",
    "text": "validation: no",
    "until": SOON,
    "fence": None,
    "not_after": None,
}


def run(
    monkeypatch: pytest.MonkeyPatch, answer: Any, *arguments: str
) -> tuple[Result, list[tuple[Any, ...]]]:
    """``answer`` is what the node replies; also what it was asked."""
    asked: list[tuple[Any, ...]] = []

    def within(_access: object, _timeout_s: float, name: str, more: Any = None) -> Any:
        asked.append((name, dict(more or {})))
        return answer

    def plainly(_access: object, command_name: str, **more: object) -> Any:
        asked.append((command_name, more))
        return answer

    monkeypatch.setattr(command, "ask_within", within)
    monkeypatch.setattr(command, "ask_node", plainly)
    return CliRunner().invoke(cli, ["certs", *arguments]), asked


def test_the_list_shows_what_is_really_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, LIST, "list")
    assert result.exit_code == 0
    assert "imap.example.com +1" in result.output
    assert "60 d" in result.output
    assert "NO" in result.output.splitlines()[-1]
    result, _ = run(monkeypatch, LIST, "list", "--json")
    assert json.loads(result.output) == LIST


def test_the_list_names_a_bucket_that_is_away_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {**LINE, "state": "missing", "note": "x is ordering", "fence": None, "not_after": None}
    result, _ = run(monkeypatch, {**LIST, "bucket": "no route", "certificates": [missing]}, "list")
    assert "no route" in result.output
    assert "missing: x is ordering" in result.output


def test_the_list_is_as_wide_as_a_screen_and_tells_what_is_shown_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "validation: " + "no route to host, says the authority; " * 9
    missing = {**LINE, "state": "missing", "note": words, "fence": None, "meanwhile": [7]}
    result, _ = run(monkeypatch, {**LIST, "certificates": [missing], "shown": []}, "list")
    assert "missing (meanwhile number 7 is shown): validation: no route" in result.output
    assert max(map(len, result.output.splitlines())) < 200
    result, _ = run(monkeypatch, {**missing, "attempts": {}, "generations": []}, "show")
    assert words in result.output


def test_one_certificate_with_the_words_of_the_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {**LINE, "attempts": {"https://ca.example/dir": TRIED}, "generations": [7, 5]}
    result, asked = run(monkeypatch, shown, "show", "mail.example.com")
    assert asked == [("certs.show", {"name": "mail.example.com"})]
    assert "failed 2 times" in result.output
    assert "validation: connection refused" in result.output
    assert "7, 5" in result.output


@pytest.mark.parametrize(("answer", "code"), [(DONE, 0), (FAILED, 1)])
def test_renewing(monkeypatch: pytest.MonkeyPatch, answer: Any, code: int) -> None:
    result, asked = run(monkeypatch, answer, "renew", "mail.example.com", "--force")
    assert result.exit_code == code
    assert asked == [("certs.renew", {"name": "mail.example.com", "force": True, "dry_run": False})]
    assert ("number 7" if code == 0 else "validation: no") in result.output


def test_revoking_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = run(monkeypatch, DONE, "revoke")
    assert result.exit_code == 1
    assert not asked
    result, asked = run(monkeypatch, DONE, "revoke", "--yes", "--reason", "superseded")
    assert asked == [("certs.revoke", {"name": "", "reason": "superseded"})]
    assert result.exit_code == 0


def test_a_check_that_finds_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    well = {"names": ["mail.example.com"], "by_dns": False, "remarks": []}
    assert run(monkeypatch, well, "check")[0].output == "mail.example.com: all well\n"
    result, _ = run(monkeypatch, {**well, "remarks": ["port 80 is closed"]}, "check")
    assert (result.exit_code, result.output) == (1, "port 80 is closed\n")


def test_import_and_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = {"id": "0123456789abcdef", "chain": "CHAIN", "key": "KEY"}
    result, _ = run(monkeypatch, pair, "export", "--to", str(tmp_path / "out"))
    assert result.exit_code == 0
    chain, key = tmp_path / "out/fullchain.pem", tmp_path / "out/privkey.pem"
    assert (chain.read_text(), key.read_text(), key.stat().st_mode & 0o777) == ("CHAIN", "KEY", 0o600)
    result, asked = run(monkeypatch, DONE, "import", "--chain", str(chain), "--key", str(key))
    assert asked == [("certs.import", {"name": "", "chain": "CHAIN", "key": "KEY"})]


def test_export_to_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result, _ = run(
        monkeypatch, {"id": "x", "chain": "C", "key": "K"}, "export", "--to", str(tmp_path / "file/x")
    )
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_new_account_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, {"accounts": {"https://ca.example/dir": "done"}}, "rollover")
    assert result.output == "https://ca.example/dir: done\n"


def test_every_command_has_examples() -> None:
    for name in command.certs.commands:
        assert "Example" in CliRunner().invoke(cli, ["certs", name, "--help"]).output, name


def test_what_is_imported_has_to_be_pem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    der = tmp_path / "chain.der"
    der.write_bytes(b"\x30\x82\xfc\xff")
    result, asked = run(monkeypatch, DONE, "import", "--chain", str(der), "--key", str(der))
    assert (result.exit_code, asked) == (2, [])
    assert f"{der} is no PEM file" in result.output
