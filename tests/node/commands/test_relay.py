"""``sora-admin relay`` on the files of a queue whose node is stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.admin import main
from node.commands.failure import NOT_FOUND, UNAVAILABLE, USAGE
from storage.postgres.settings import EndpointSettings
from storage.relaylayout import SHOWN_STRAYS
from storage.relayqueue import RelayQueue
from tests.support.relaydisk import UnsyncedSpoolDisk

from .conftest import write_config

Relay = Callable[..., Result]


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    nowhere = EndpointSettings(hosts=(("127.0.0.1", 1),), user="u", password="p", database="d")
    config = write_config(tmp_path / "config.toml", nowhere)
    config.write_text(
        config.read_text()
        + f"""
[relay]
type = "smtp"
smtp_host = "127.0.0.1:25"
smtp_tls = false

[relay_queue]
path = "{tmp_path}/relay"
"""
    )

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, ["--config", str(config), "relay", *arguments])
        assert "Traceback" not in result.output
        return result

    return run


def queue(root: Path, *recipients: str) -> RelayQueue:
    """That a node had, and has closed."""
    made = RelayQueue(root, time.time, UnsyncedSpoolDisk())
    made.open()
    for each in recipients:
        made.submit("", [each], b"Subject: x\r\n\r\nhello\r\n", kind="redirect", account=None)
    made.close()
    return made


@pytest.mark.parametrize("arguments", [["list"], ["stats"], ["retry", "--all-failed"], ["adopt", "."]])
def test_where_no_queue_is_it_says_so(relay: Relay, tmp_path: Path, arguments: list[str]) -> None:
    result = relay(*arguments)
    assert result.exit_code == NOT_FOUND
    assert f"there is no relay queue in {tmp_path}/relay" in result.output
    assert not (tmp_path / "relay").exists()


def test_a_stopped_node_adopts(relay: Relay, tmp_path: Path) -> None:
    ours = queue(tmp_path / "relay", "a@far.test")
    gone = queue(tmp_path / "gone", "b@far.test", "c@far.test")
    gone.open()
    in_use = relay("adopt", str(gone.root))
    gone.close()
    assert (in_use.exit_code, len(ours.ids("pending"))) == (UNAVAILABLE, 1)
    assert "another process uses" in in_use.output
    adopted = relay("adopt", str(gone.root), "--json")
    assert json.loads(adopted.stdout) == {"pending": 2, "failed": 0}
    assert (len(ours.ids("pending")), gone.ids("pending")) == (3, [])
    own = relay("adopt", str(ours.root))
    assert own.exit_code == USAGE
    assert "this node's own" in own.output
    assert relay("adopt", str(tmp_path)).exit_code == NOT_FOUND


def test_what_is_no_message_is_shown_and_left_alone(relay: Relay, tmp_path: Path) -> None:
    ours = queue(tmp_path / "relay", "a@far.test")
    assert "no messages" not in relay("stats").stdout + relay("list").stdout
    strays = [f"pending/{number:02}.bak" for number in range(SHOWN_STRAYS + 3)]
    for each in strays:
        (ours.root / each).touch()
    named = f"{', '.join(strays[:SHOWN_STRAYS])} and 3 more"
    listed = relay("list").stdout
    assert ours.ids("pending")[0] in listed
    assert f"no messages and left alone: {named}" in listed
    assert f"{named}: left alone, move them away" in relay("stats").stdout
    told = json.loads(relay("stats", "--json").stdout)
    assert (told["pending"], told["strays"]["count"]) == (1, len(strays))
    assert {each.name for each in (ours.root / "pending").iterdir()} >= {Path(each).name for each in strays}
