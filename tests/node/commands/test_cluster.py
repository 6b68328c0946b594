"""``sora-node cluster`` as people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.cli import cli
from node.commands import cluster as command

MEMBER: dict[str, Any] = {
    "name": "node-1",
    "address": "10.0.0.1:7946",
    "state": "alive",
    "is_self": True,
    "is_leader": True,
    "kind": "sora",
    "incarnation": 3,
    "round_trip_ms": None,
    "version": "1.0",
    "state_age_s": 3600.4,
    "serving": "serving",
    "connections": {"imap": 7, "lmtp": 1},
    "blocks": 2,
    "drift": [],
}
AGENT = {
    **MEMBER,
    "name": "ops",
    "is_self": False,
    "is_leader": False,
    "kind": "agent",
    "version": "",
    "round_trip_ms": 1.26,
    "serving": "",
    "connections": {},
    "blocks": None,
}
DRAINING = {**AGENT, "name": "node-2", "serving": "draining", "drift": ["s3"], "kind": "sora"}
SUMMARY: dict[str, Any] = {
    "node": "node-1",
    "state": "serving",
    "trouble": "",
    "leader": "node-1",
    "drift": {"node-2": ["s3"]},
    "gossip": {"figures": {"packets_received": 10, "packets_sent": 12, "rejected_key": 3, "awareness": 1}},
    "members": [MEMBER, DRAINING, AGENT],
}


def run(
    monkeypatch: pytest.MonkeyPatch, answer: Any, *arguments: str
) -> tuple[Result, list[tuple[Any, ...]]]:
    """``answer`` is what the node replies; also what it was asked."""
    asked: list[tuple[Any, ...]] = []

    def ask_node(_access: object, name: str, **more: object) -> Any:
        asked.append((name, more))
        return answer

    def ask_within(_access: object, _seconds: float, name: str, more: object = None) -> Any:
        asked.append((name, more))
        return answer

    monkeypatch.setattr(command, "ask_node", ask_node)
    monkeypatch.setattr(command, "ask_within", ask_within)
    return CliRunner().invoke(cli, ["cluster", *arguments], standalone_mode=False), asked


def test_members(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(monkeypatch, SUMMARY, "members")
    lines = found.output.splitlines()
    assert lines[0].split() == ["node:", "node-1", "(serving)"]
    assert "node-2 differs in s3" in found.output
    assert "10 packets in, 12 out, 3 rejected" in found.output
    assert any("*  node-1" in line and "imap 7, lmtp 1" in line and " 1h" in line for line in lines)
    assert any("alive, draining, differs" in line and "1.3 ms" in line for line in lines)
    assert any("ops" in line and "agent" in line for line in lines)


def test_members_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(monkeypatch, SUMMARY, "members", "--json")
    assert json.loads(found.output) == SUMMARY


def test_events(monkeypatch: pytest.MonkeyPatch) -> None:
    event = {"number": 5, "at": 1_800_000_000.0, "kind": "failed", "node": "node-2", "detail": ""}
    found, asked = run(monkeypatch, {"events": [event]}, "events", "--after", "4")
    assert asked == [("cluster.events", {"after": 4})]
    assert "failed" in found.output
    assert "node-2" in found.output
    assert "nothing has happened" in run(monkeypatch, {"events": []}, "events")[0].output


@pytest.mark.parametrize(("verdict", "status"), [("ok", None), ("warning", None), ("error", 1)])
def test_doctor_says_what_to_do_and_fails_when_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, verdict: str, status: int | None
) -> None:
    finding = {"verdict": verdict, "about": "10.0.0.2:7946", "what": "refuses TCP", "cure": "start it"}
    found, _ = run(monkeypatch, {"verdict": verdict, "findings": [finding]}, "doctor")
    assert f"{verdict:<8} 10.0.0.2:7946: refuses TCP\n" in found.output
    assert "-> start it" in found.output
    assert (found.exception.code if isinstance(found.exception, SystemExit) else None) == status


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"is_done": True, "message": "", "primary": "abc", "keys": ["abc", "def"]}
    answer = {"own": ["abc"], "key": "abc", "new_key": "c2VjcmV0", "nodes": {"node-1": done}, "absent": []}
    found, asked = run(monkeypatch, answer, "keys", "--rotate")
    assert asked == [("cluster.keys", {"step": "rotate"})]
    assert "c2VjcmV0" in found.output
    assert "abc def" in found.output
    assert "Away" not in found.output
    assert found.exception is None
    _, asked = run(monkeypatch, answer, "keys", "--use", "abc")
    assert asked == [("cluster.keys", {"step": "use", "key": "abc"})]


def test_a_node_that_did_not_follow_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {"is_done": None, "message": "no answer", "primary": "", "keys": []}
    answer = {"own": ["abc"], "nodes": {"node-2": silent}, "stopped_at": "install", "absent": []}
    found, _ = run(monkeypatch, answer, "keys", "--rotate")
    assert "no answer" in found.output
    assert "Stopped at install" in found.output
    assert "not all nodes" in str(found.exception)


def test_who_misses_a_change_of_keys_is_named_and_empty_columns_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = {"is_done": True, "message": "", "primary": "", "keys": []}
    answer = {"own": ["abc"], "key": "abc", "nodes": {"node-1": done}, "absent": ["node-3"]}
    found, _ = run(monkeypatch, answer, "keys", "--use", "abc")
    assert found.output.splitlines()[0].split() == ["NODE", "ANSWER"]
    assert "Away, and not asked: node-3." in found.output


def test_one_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = run(monkeypatch, {}, "keys", "--use", "a", "--remove", "b")
    assert "one step" in str(found.exception)
    assert asked == []


def test_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has left" in run(monkeypatch, {"node": "node-1"}, "leave")[0].output
    found, asked = run(monkeypatch, {"node": "node-3"}, "force-leave", "--prune", "node-3")
    assert asked == [("cluster.force_leave", {"node": "node-3", "prune": True})]
    assert "node-3 counts as a node that has left" in found.output


def test_each_command_has_examples() -> None:
    for name in ("members", "keys", "events", "doctor", "leave", "force-leave"):
        text = CliRunner().invoke(cli, ["cluster", name, "--help"]).output
        assert f"sora-node cluster {name}" in text
        assert "--json" in text


def test_without_a_node_it_says_so(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[database.write]\nhosts = ["db"]\nuser = "u"\npassword = "p"\nname = "n"\n'
        f'[s3]\ndriver = "file"\npath = "{tmp_path}/objects"\n[uploader]\npath = "{tmp_path}/staging"\n'
    )
    found = CliRunner().invoke(cli, ["cluster", "members", "--config", str(config)])
    assert found.exit_code != 0
    assert "no node is running here" in found.output
