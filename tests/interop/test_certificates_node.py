"""One node as an operator sets it up: a wildcard of two key types by DNS-01 from its configuration alone, the
commands, and what never shows."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.named import KEY_NAME, KEY_SECRET, Named
from tests.support.nodeprocess import ROOT, NodeProcess
from tests.support.pebble import Pebble, PebbleOptions, free_port, require_pebble
from tls.selfsigned import self_signed

NAMES = ["*.example.test", "example.test"]
SOON_S = 60.0
ENCRYPTION_KEY = "c2VhbGluZy1rZXktb2YtdGhpcy10ZXN0LTAxMjM0NTY="

SECTION = """
[tls]
enabled = true
provider = "letsencrypt"

[tls.letsencrypt]
email = "ops@example.test"
domains = ["*.example.test", "example.test"]
key_types = ["ecdsa-p256", "rsa-2048"]
directory = "{directory}"
ca_file = "{ca_file}"
fallback_dir = "{mirror}"
encryption_key = "{key}"
challenge_listen = "127.0.0.1:{port}"

[tls.letsencrypt.s3]
bucket = "sora-mail"
endpoint = "{endpoint}"
disable_tls = true
server_side_encryption = ""

[tls.letsencrypt.dns]
provider = "rfc2136"
server = "{dns}"
key_name = "{key_name}"
key_secret = "{key_secret}"
"""
METRICS = """
[[servers]]
type = "metrics"
name = "metrics"
addr = "127.0.0.1:0"
api_key = "key-of-the-scrape"
"""
RECORDER = """
import os, sys
class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name in {"acme", "josepy", "aioboto3", "botocore"}:
            with open(os.environ["SORA_TEST_IMPORTS"], "a") as file:
                file.write(f"{os.getpid()} {name}\\n")
sys.meta_path.insert(0, Recorder())
"""


@dataclass
class World:
    node: NodeProcess
    ca: Pebble
    named: Named

    def certs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "node", "certs", *arguments]
        if "--help" not in arguments:
            command += ["--config", str(self.node.config)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    def json_of(self, *arguments: str) -> Any:
        done = self.certs(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leaf(self, name: str | None, ciphers: str = "") -> x509.Certificate:
        """What a client is shown that trusts the CA alone; with ``ciphers``, one of TLS 1.2."""
        context = ssl.create_default_context(cadata=self.ca.root_pem().decode())
        if name is None:
            context.check_hostname = False
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        with (
            socket.create_connection(("127.0.0.1", self.node.port("imaps")), 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown)

    def ids(self) -> dict[str, str]:
        return {each["key_type"]: each["id"] for each in self.json_of("list")["certificates"]}


def until(what: str, is_so: Callable[[], bool], within_s: float = SOON_S) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass  # not yet
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    require_pebble()
    with Named() as named, Pebble(PebbleOptions(dns_server=named.address)) as ca:
        node = NodeProcess()
        (node.directory / "sitecustomize.py").write_text(RECORDER)
        imports = node.directory / "imports"
        node.environment = {"PYTHONPATH": str(node.directory), "SORA_TEST_IMPORTS": str(imports)}

        def edit(text: str) -> str:
            found = re.search(r'(?m)^endpoint = "(.*)"', text)
            assert found is not None
            head, _, rest = text.partition("[tls]\n")
            servers = rest[rest.index("[[servers]]") :]
            section = SECTION.format(
                directory=ca.directory,
                ca_file=ca.ca_file,
                mirror=node.directory / "certs",
                key=ENCRYPTION_KEY,
                port=free_port(),
                endpoint=found[1],
                dns=named.address,
                key_name=KEY_NAME,
                key_secret=KEY_SECRET,
            )
            return head.replace("workers = 1", "workers = 2") + section + servers + METRICS

        with node.prepare(edit, s3="rclone"):
            world = World(node, ca, named)
            until("both certificates are there", lambda: all_issued(world))
            yield world


def all_issued(world: World) -> bool:
    return all(each["fence"] for each in world.json_of("list")["certificates"])


def test_a_wildcard_of_two_key_types_is_served_to_whom_each_suits(world: World) -> None:
    assert world.ca.front.count("finalize") == 2
    new = world.leaf("imap.example.test")
    assert isinstance(new.public_key(), ec.EllipticCurvePublicKey)
    old = world.leaf("pop.example.test", "aRSA")
    assert isinstance(old.public_key(), rsa.RSAPublicKey)
    for leaf in (new, old):
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(names.get_values_for_type(x509.DNSName)) == NAMES
    assert world.leaf(None) == new  # a client without a server name
    assert world.named.texts("_acme-challenge.example.test") == set()


def test_commands_by_hand_from_help_to_revocation(world: World, tmp_path: Path) -> None:
    assert {"list", "show", "renew", "revoke", "check", "import", "export", "rollover"} <= set(
        re.findall(r"(?m)^  (\w+)  +", world.certs("--help").stdout)
    )
    ids = world.ids()
    ecdsa = ids["ecdsa-p256"]
    several = world.certs("show", "example.test")
    assert several.returncode == 2
    assert ecdsa in several.stderr
    strange = world.certs("show", "mail.example.com")
    assert strange.returncode == 3
    assert "mail.example.com" in strange.stderr
    shown = world.json_of("show", ecdsa)
    assert shown["names"] == NAMES
    assert world.json_of("renew", ecdsa)["result"] == "up to date"
    assert world.json_of("check", ecdsa)["by_dns"] is True
    before, ordered = world.leaf("a.example.test"), world.ca.front.count("finalize")

    tried = world.json_of("renew", ecdsa, "--dry-run")
    assert tried["done"] is True
    assert world.ca.front.count("finalize") == ordered + 1
    assert world.leaf("a.example.test") == before

    assert world.json_of("rollover")["accounts"] == {world.ca.directory: "done"}
    forced = world.json_of("renew", ecdsa, "--force")
    assert forced["result"] == "issued"
    after = world.leaf("a.example.test")
    assert after != before

    revoked = world.json_of("revoke", ecdsa, "--reason", "superseded", "--yes")
    assert revoked["result"] == "issued"
    pem = after.public_bytes(serialization.Encoding.PEM)
    assert world.ca.certificate_status(pem) == "Revoked"
    assert world.leaf("a.example.test") != after


def test_a_pair_out_and_another_in(world: World, tmp_path: Path) -> None:
    ecdsa = world.ids()["ecdsa-p256"]
    world.json_of("export", ecdsa, "--to", str(tmp_path / "out"))
    chain, key = tmp_path / "out" / "fullchain.pem", tmp_path / "out" / "privkey.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    shown = world.leaf("a.example.test")
    assert x509.load_pem_x509_certificate(chain.read_bytes()) == shown

    foreign_chain, foreign_key = self_signed(["other.example.test"], datetime.now(UTC))
    chain.write_bytes(foreign_chain)
    refused = world.certs("import", ecdsa, "--chain", str(chain), "--key", str(key), "--json")
    assert refused.returncode == 2
    assert "key" in refused.stderr
    key.write_bytes(foreign_key)
    refused = world.certs("import", ecdsa, "--chain", str(chain), "--key", str(key))
    assert refused.returncode == 2
    assert world.leaf("a.example.test") == shown


def test_a_worker_loads_nothing_of_what_orders(world: World) -> None:
    """Every worker would pay for the memory."""
    assert world.node.process is not None
    lines = (world.node.directory / "imports").read_text().splitlines()
    assert {line.split()[1] for line in lines} == {"acme", "josepy", "aioboto3", "botocore"}
    assert {int(line.split()[0]) for line in lines} == {world.node.process.pid}
    assert world.node.log.count("is served, valid") >= 2 * 3, "workers have shown certificates"


def test_figures_of_a_scrape(world: World) -> None:
    url = f"http://127.0.0.1:{world.node.port('metrics')}/metrics"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer key-of-the-scrape"})
    with urllib.request.urlopen(request, timeout=10) as response:
        text = response.read().decode()
    for key_type in ("ecdsa-p256", "rsa-2048"):
        generation = re.search(rf"sora_certificate_generation{{.*{key_type}.*}} (\S+)", text)
        assert generation is not None, text
        assert float(generation[1]) > 0
    for name in (
        "sora_certificate_not_after_timestamp_seconds",
        "sora_certificate_failures_total",
        "sora_certificate_lease_held",
        "sora_certificate_synced_timestamp_seconds",
    ):
        assert name in text
    assert "sora_challenge_port_open" not in text, "no port is needed, so no alert about it"


def test_no_log_holds_a_secret(world: World, tmp_path: Path) -> None:
    """After all that was done before; the CA's answers and the commands' included."""
    world.certs("export", world.ids()["rsa-2048"], "--to", str(tmp_path))
    body = [line for line in (tmp_path / "privkey.pem").read_text().splitlines() if "-" not in line]
    log = world.node.log
    assert "issued by" in log
    for secret in (body[1], KEY_SECRET, ENCRYPTION_KEY, "PRIVATE KEY"):
        assert secret not in log
