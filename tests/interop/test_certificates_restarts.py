"""A node that starts when something is away, wrong or taken: it shows what it has, says what is the matter
and orders nothing for it."""

from __future__ import annotations

import re
import shutil
import socket

from tests.support.waiting import eventually

from .issuing import ENCRYPTION_KEY, Site, issuing

NAME = "mail.example.test"
OTHER_KEY = "YW5vdGhlci1rZXktb2YtdGhpcy10ZXN0LTAxMjM0NTY="
SECTION = r"(endpoint = \")[^\"]*(\" # of certificates)"


def test_starts_when_something_is_the_matter() -> None:
    with issuing([NAME], ["ecdsa-p256"], by_dns=False) as site:
        shown = site.leaf(NAME)
        _, figures = site.page("/metrics")
        assert re.search(r'sora_challenge_requests_total{result="memory"} [1-9]', figures)
        assert "sora_challenge_port_open 1" in figures
        endpoint = re.search(SECTION, site.node.config.read_text())
        assert endpoint is not None

        restart(site, SECTION, r"\g<1>127.0.0.1:1\g<2>")
        assert site.leaf(NAME) == shown, "from the mirror"
        assert "127.0.0.1:1" in site.json_of("list")["bucket"]

        site.node.stop()
        shutil.rmtree(site.node.directory / "certs")
        site.node.start()
        assert greets(site, "imap")
        assert not handshakes(site)
        assert site.page("/readyz")[0] == 200
        eventually(lambda: "bucket" in site.page("/readyz")[1], what="the node says that its bucket is away")

        site.node.stop()
        site.edit(SECTION, endpoint[0].replace("\\", ""))
        restart(site, ENCRYPTION_KEY, OTHER_KEY, is_stopped=True)
        eventually(lambda: site.page("/readyz")[0] == 503, what="the node says that its key is another")
        assert "tls.letsencrypt.encryption_key" in site.page("/readyz")[1]
        assert not handshakes(site)
        assert greets(site, "imap")

        restart(site, OTHER_KEY, ENCRYPTION_KEY)
        assert site.leaf(NAME) == shown

        site.node.stop()
        with socket.create_server(("127.0.0.1", site.ca.options.http_port)):
            site.node.start()
            assert site.leaf(NAME) == shown
            assert "sora_challenge_port_open 0" in site.page("/metrics")[1]
            taken = f"port {site.ca.options.http_port}"
            eventually(lambda: taken in site.page("/readyz")[1], what="the node says that its port is taken")
            assert site.page("/readyz")[0] == 200
        assert site.ca.front.count("new-order") == 1


def restart(site: Site, pattern: str, replacement: str, *, is_stopped: bool = False) -> None:
    if not is_stopped:
        site.node.stop()
    site.edit(pattern, replacement)
    site.node.start()


def greets(site: Site, server: str) -> bool:
    with socket.create_connection(("127.0.0.1", site.node.port(server)), 60) as plain:
        return plain.recv(100).startswith(b"* OK")


def handshakes(site: Site) -> bool:
    try:
        site.leaf(NAME)
    except OSError:
        return False
    return True
