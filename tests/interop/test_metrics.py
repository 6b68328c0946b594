"""Prometheus's own tool on our rules and on the figures of a node under use."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from imapclient import IMAPClient

from tests.support.corpus import messages
from tests.support.livenode import client_context
from tests.support.nodeprocess import ROOT, NodeProcess

from .conftest import PASSWORD, SECRET_HASH, deliver, needs

RULES = ROOT / "deploy" / "prometheus"
KEY = "0123456789abcdef"
METRICS = f"""
[[servers]]
type = "metrics"
name = "metrics"
addr = "127.0.0.1:0"
api_key = "{KEY}"
"""
ADDRESS = "figures@interop.example.test"
ENDS_WITHIN_S = 600  # all rules for each minute of hours, which is 17 s of an idle core


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [needs("promtool"), *arguments],
        input=stdin,
        capture_output=True,
        cwd=RULES,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


def test_rules_are_right() -> None:
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")


def test_rules_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@pytest.fixture(scope="module")
def watched() -> Iterator[NodeProcess]:
    """A node with a metrics server; quickstart writes none, so its configuration is extended."""
    with NodeProcess() as node:
        node.stop()
        with node.config.open("a") as config:
            config.write(METRICS)
        node.start()
        node.admin("accounts", "create", ADDRESS, "--password-hash", SECRET_HASH)
        yield node


def scrape(node: NodeProcess, accept: str = "") -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{node.port('metrics')}/metrics",
        headers={"Authorization": f"Bearer {KEY}", "Accept": accept},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return bytes(response.read())


def test_figures_of_a_node_under_use_please_promtool(watched: NodeProcess) -> None:
    deliver(watched, ADDRESS, messages(1, 5, to=ADDRESS))
    with IMAPClient("localhost", watched.port("imaps"), ssl_context=client_context(watched)) as client:
        client.login(ADDRESS, PASSWORD)
        client.select_folder("INBOX")
        client.fetch([1, 2, 3, 4, 5], ["BODY.PEEK[]"])
        page = scrape(watched)
    assert b'sora_deliveries_total{result="2xx"} 5.0' in page
    assert b'sora_sessions{protocol="imap",server="imaps"} 1.0' in page
    assert b'sora_commands_total{command="FETCH",protocol="imap",status="ok"} 1.0' in page
    assert promtool("check", "metrics", stdin=page) == "", "no lint either"


def test_health_from_the_command_line(watched: NodeProcess) -> None:
    report = watched.admin("health", "--detailed", check=False)
    assert "database" in report
    assert "object_store" in report
    assert watched.admin("health", check=False).splitlines()[0].endswith((" is ok", " is degraded"))
