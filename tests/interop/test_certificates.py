"""One node of its own, a real authority (pebble) and a real bucket (rclone): what an operator does by hand,
and a start without the bucket."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.livenode import health_of
from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.pebble import Pebble, require_pebble
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tls.observing import Observation, observe

NAME = "mail.example.test"

SECTION = """[tls]
enabled = true
provider = "letsencrypt"

[tls.letsencrypt]
email = "ops@example.test"
domains = ["{name}"]
directory = "{directory}"
ca_file = "{ca_file}"
challenge_listen = "127.0.0.1:{port}"
encryption_key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
fallback_dir = "{mirror}"
s3 = {{ bucket = "sora-mail", endpoint = "{endpoint}", disable_tls = true, server_side_encryption = "" }}

"""


def edited(ca: Pebble, mirror: Path) -> Callable[[str], str]:
    def edit(text: str) -> str:
        found = re.search(r'(?m)^endpoint = "(.*)"$', text)
        assert found is not None
        section = SECTION.format(
            name=NAME,
            directory=ca.directory,
            ca_file=ca.ca_file,
            port=ca.options.http_port,
            mirror=mirror,
            endpoint=found[1],
        )
        head, _, rest = text.partition("[tls]\n")
        return head + section + rest[rest.index("[[servers]]") :]

    return edit


@pytest.fixture(scope="module")
def ca() -> Iterator[Pebble]:
    require_pebble()
    with Pebble() as ca:
        yield ca


@pytest.fixture(scope="module")
def node(ca: Pebble) -> Iterator[NodeProcess]:
    made = NodeProcess()
    with made.prepare(edited(ca, made.directory / "certs"), s3="rclone") as node:
        eventually(lambda: bool(shown(node).fingerprint), what="a first certificate is shown")
        yield node


def shown(node: NodeProcess, roots: str = "") -> Observation:
    return asyncio.run(observe("127.0.0.1", node.port("imaps"), NAME, roots=roots))


def certs(node: NodeProcess, *arguments: str, status: int = 0) -> Any:
    """What ``sora-node certs … --json`` prints."""
    command = [sys.executable, "-m", "node", "certs", *arguments, "--json", "--config", str(node.config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr + node.log[-2000:]
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stderr


def test_what_is_shown_leads_to_the_root_of_the_authority(node: NodeProcess, ca: Pebble) -> None:
    assert shown(node, ca.root_pem().decode()).is_trusted
    (line,) = certs(node, "list")["certificates"]
    assert (line["names"], line["state"], line["fingerprint"]) == ([NAME], "ok", shown(node).fingerprint)
    one = certs(node, "show", NAME)
    assert one["generations"] == [line["fence"]]
    assert one["attempts"][ca.directory]["last_success_at"]


def test_renewing_by_hand(node: NodeProcess) -> None:
    before = shown(node).fingerprint
    assert certs(node, "renew", NAME)["result"] == "up to date"
    assert certs(node, "renew", NAME, "--dry-run")["result"] == "issued"
    assert shown(node).fingerprint == before
    assert certs(node, "renew", NAME, "--force")["result"] == "issued"
    assert shown(node).fingerprint != before


def test_the_account_gets_a_new_key_and_goes_on(node: NodeProcess, ca: Pebble) -> None:
    assert certs(node, "rollover")["accounts"] == {ca.directory: "done"}
    assert certs(node, "renew", "--dry-run")["done"]


def test_revoking_shows_another_at_once(node: NodeProcess, ca: Pebble, tmp_path: Path) -> None:
    certs(node, "export", "--to", str(tmp_path))
    chain = (tmp_path / "fullchain.pem").read_bytes()
    before = shown(node).fingerprint
    assert certs(node, "revoke", "--yes", "--reason", "superseded")["done"]
    assert ca.certificate_status(chain) == "Revoked"
    assert shown(node).fingerprint != before


def test_a_pair_is_taken_out_and_put_in_again(node: NodeProcess, tmp_path: Path) -> None:
    certs(node, "export", "--to", str(tmp_path))
    before = certs(node, "show")
    pair = ("--chain", str(tmp_path / "fullchain.pem"), "--key", str(tmp_path / "privkey.pem"))
    assert certs(node, "import", *pair)["done"]
    after = certs(node, "show")
    assert after["fence"] > before["fence"]
    assert after["fingerprint"] == before["fingerprint"]


def test_our_budget_ends_before_that_of_the_authority(node: NodeProcess, ca: Pebble) -> None:
    """First, by hand, after a revocation: three certificates for these names."""
    ordered = ca.front.count("new-order")
    assert "budget" in certs(node, "renew", "--force", status=1)["text"]
    assert ca.front.count("new-order") == ordered


def test_a_check_says_that_the_name_is_not_in_the_dns(node: NodeProcess) -> None:
    (remark,) = certs(node, "check", status=1)["remarks"]
    assert f"{NAME} is not in the DNS" in remark


def test_a_node_starts_without_its_bucket_on_what_its_mirror_has(node: NodeProcess, ca: Pebble) -> None:
    before, ordered = shown(node).fingerprint, ca.front.count("new-order")
    node.stop()
    config = node.config.read_text()
    closed = rf'\1"127.0.0.1:{free_port()}"'
    node.config.write_text(re.sub(r'(s3 = \{ bucket = "sora-mail", endpoint = )"[^"]*"', closed, config))
    node.start()
    assert shown(node).fingerprint == before
    assert "127.0.0.1" in certs(node, "list")["bucket"]
    assert "bucket" in certs(node, "renew", "--force", status=1)["text"]
    assert ca.front.count("new-order") == ordered
    node.stop()
    node.config.write_text(config)
    node.start()


def test_a_port_that_is_taken_leaves_the_node_serving(node: NodeProcess, ca: Pebble) -> None:
    node.stop()
    with socket.create_server(("127.0.0.1", ca.options.http_port)):
        node.start()
        assert shown(node).fingerprint
        eventually(lambda: health_of(node, "challenges") == "degraded")
