"""A node whose certificates are issued by pebble, for tests that try it as an operator would."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from tests.support import commands
from tests.support.named import KEY_NAME, KEY_SECRET, Named
from tests.support.nodeprocess import NodeProcess
from tests.support.pebble import Pebble, PebbleOptions, require_pebble
from tests.support.waiting import eventually

ENCRYPTION_KEY = "c2VhbGluZy1rZXktb2YtdGhpcy10ZXN0LTAxMjM0NTY="
SCRAPE_KEY = "key-of-the-scrape"

SECTION = """
[tls]
enabled = true
provider = "letsencrypt"

[tls.letsencrypt]
email = "ops@example.test"
domains = {names}
key_types = {key_types}
directory = "{directory}"
ca_file = "{ca_file}"
fallback_dir = "{mirror}"
encryption_key = "{key}"
challenge_listen = "127.0.0.1:{port}"

[tls.letsencrypt.s3]
bucket = "sora-mail"
endpoint = "{endpoint}" # of certificates
disable_tls = true
server_side_encryption = ""
"""
DNS = """
[tls.letsencrypt.dns]
provider = "rfc2136"
server = "{dns}"
key_name = "{key_name}"
key_secret = "{key_secret}"
"""
METRICS = f"""
[[servers]]
type = "metrics"
name = "metrics"
addr = "127.0.0.1:0"
api_key = "{SCRAPE_KEY}"
"""
# which process loads what orders certificates
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
class Site:
    """One node with two workers, its authority, and a name server where challenges are answered by DNS."""

    node: NodeProcess
    ca: Pebble
    named: Named | None

    def certs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        config = () if "--help" in arguments else ("--config", str(self.node.config))
        return commands.run("node", ("certs", *arguments, *config))

    def json_of(self, *arguments: str) -> Any:
        done = self.certs(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leaf(self, name: str | None, ciphers: str = "") -> x509.Certificate:
        """What a client is shown that trusts the CA alone; with ``ciphers``, one of TLS 1.2. Raises
        OSError."""
        context = ssl.create_default_context(cadata=self.ca.root_pem().decode())
        if name is None:
            context.check_hostname = False
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        with (
            socket.create_connection(("127.0.0.1", self.node.port("imaps")), 60) as plain,
            context.wrap_socket(plain, server_hostname=name) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown)

    def ids(self) -> dict[str, str]:
        return {each["key_type"]: each["id"] for each in self.json_of("list")["certificates"]}

    def page(self, path: str) -> tuple[int, str]:
        """Of the metrics server: status and text."""
        url = f"http://127.0.0.1:{self.node.port('metrics')}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {SCRAPE_KEY}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def edit(self, pattern: str, replacement: str) -> None:
        """The configuration of the node, which is stopped; the pattern must be there."""
        text, count = re.subn(pattern, replacement, self.node.config.read_text())
        assert count == 1, pattern
        self.node.config.write_text(text)

    def is_issued(self) -> bool:
        return all(each["fence"] for each in self.json_of("list")["certificates"])


@contextmanager
def issuing(names: Sequence[str], key_types: Sequence[str], *, by_dns: bool) -> Iterator[Site]:
    """Yields when all certificates are there."""
    require_pebble()
    with ExitStack() as stack:
        named = stack.enter_context(Named()) if by_dns else None
        ca = stack.enter_context(Pebble(PebbleOptions(dns_server=named.address if named else "")))
        node = NodeProcess()
        (node.directory / "sitecustomize.py").write_text(RECORDER)
        imports = str(node.directory / "imports")
        node.environment = {"PYTHONPATH": str(node.directory), "SORA_TEST_IMPORTS": imports}

        def edit(text: str) -> str:
            found = re.search(r'(?m)^endpoint = "(.*)"', text)
            assert found is not None
            head, _, rest = text.partition("[tls]\n")
            servers = rest[rest.index("[[servers]]") :]
            section = SECTION.format(
                names=json.dumps(list(names)),
                key_types=json.dumps(list(key_types)),
                directory=ca.directory,
                ca_file=ca.ca_file,
                mirror=node.directory / "certs",
                key=ENCRYPTION_KEY,
                port=ca.options.http_port,
                endpoint=found[1],
            )
            if named is not None:
                section += DNS.format(dns=named.address, key_name=KEY_NAME, key_secret=KEY_SECRET)
            return head.replace("workers = 1", "workers = 2") + section + servers + METRICS

        with node.prepare(edit, s3="rclone"):
            site = Site(node, ca, named)
            eventually(site.is_issued, what="all certificates are there")
            yield site
