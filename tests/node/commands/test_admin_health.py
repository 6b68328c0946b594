"""``sora-admin health`` as monitoring programs call it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.admin import main
from node.control import Arguments, ControlServer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[database.write]\nhosts = ["db"]\nuser = "u"\npassword = "p"\nname = "n"\n'
        f'[s3]\ndriver = "file"\npath = "{tmp_path}/objects"\n[uploader]\npath = "{tmp_path}/staging"\n'
    )
    return path


def report(status: str, *components: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "node": "mail.example.test",
        "status": status,
        "time": "2026-11-22T12:00:00Z",
        "components": [
            {
                "name": name,
                "critical": name == "database",
                "status": state,
                "detail": detail,
                "since": "2026-11-22T11:00:00Z",
                "checked": "2026-11-22T12:00:00Z",
            }
            for name, state, detail in components
        ],
    }


@contextmanager
def answering(path: Path, answer: dict[str, Any]) -> Iterator[None]:
    """A node that says ``answer``, on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def health(_arguments: Arguments) -> object:
        return answer

    server = ControlServer(path, {"health": health})
    loop.run_until_complete(server.open())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(config), "health", *arguments])


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("degraded", 1), ("down", 2)])
def test_exit_codes(config: Path, tmp_path: Path, status: str, code: int) -> None:
    with answering(tmp_path / "control.sock", report(status)):
        result = run(config)
    assert result.exit_code == code
    assert result.output == f"mail.example.test is {status}\n"


def test_trouble_is_named_and_the_rest_only_when_asked_for(config: Path, tmp_path: Path) -> None:
    told = report("degraded", ("database", "ok", ""), ("staging", "degraded", "the oldest for 20m"))
    with answering(tmp_path / "control.sock", told):
        short, long, machine = run(config), run(config, "--detailed"), run(config, "--json")
    assert short.output == "mail.example.test is degraded\n  staging is degraded: the oldest for 20m\n"
    assert "database   ok" in long.output
    assert json.loads(machine.output) == told
    assert machine.exit_code == 1


def test_node_that_does_not_run_is_down(config: Path) -> None:
    result = run(config)
    assert result.exit_code == 2
    assert result.output.startswith("down: no node is running here")
    assert json.loads(run(config, "--json").output)["status"] == "down"


def test_bad_configuration_is_no_health(tmp_path: Path) -> None:
    assert run(tmp_path / "missing.toml").exit_code == 2
