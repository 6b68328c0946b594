"""One node as an operator sets it up: a wildcard of two key types by DNS-01 from its configuration alone, the
commands, and what never shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.named import KEY_SECRET
from tests.support.waiting import eventually
from tls.selfsigned import self_signed

from .issuing import ENCRYPTION_KEY, Site, issuing

NAMES = ["*.example.test", "example.test"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with issuing(NAMES, ["ecdsa-p256", "rsa-2048"], by_dns=True) as site:
        yield site


def test_a_wildcard_of_two_key_types_is_served_to_whom_each_suits(site: Site) -> None:
    assert site.ca.front.count("finalize") == 2
    new = site.leaf("imap.example.test")
    assert isinstance(new.public_key(), ec.EllipticCurvePublicKey)
    old = site.leaf("pop.example.test", "aRSA")
    assert isinstance(old.public_key(), rsa.RSAPublicKey)
    for leaf in (new, old):
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(names.get_values_for_type(x509.DNSName)) == NAMES
    assert site.leaf(None) == new  # a client without a server name
    assert site.named is not None
    assert site.named.texts("_acme-challenge.example.test") == set()


def test_commands_by_hand_from_help_to_revocation(site: Site, tmp_path: Path) -> None:
    assert {"list", "show", "renew", "revoke", "check", "import", "export", "rollover"} <= set(
        re.findall(r"(?m)^  (\w+)  +", site.certs("--help").stdout)
    )
    ids = site.ids()
    ecdsa = ids["ecdsa-p256"]
    several = site.certs("show", "example.test")
    assert several.returncode == 2
    assert ecdsa in several.stderr
    strange = site.certs("show", "mail.example.com")
    assert strange.returncode == 3
    assert "mail.example.com" in strange.stderr
    shown = site.json_of("show", ecdsa)
    assert shown["names"] == NAMES
    assert site.json_of("renew", ecdsa)["result"] == "up to date"
    assert site.json_of("check", ecdsa)["by_dns"] is True
    before, ordered = site.leaf("a.example.test"), site.ca.front.count("finalize")

    tried = site.json_of("renew", ecdsa, "--dry-run")
    assert tried["done"] is True
    assert site.ca.front.count("finalize") == ordered + 1
    assert site.leaf("a.example.test") == before

    assert site.json_of("rollover")["accounts"] == {site.ca.directory: "done"}
    forced = site.json_of("renew", ecdsa, "--force")
    assert forced["result"] == "issued"
    after = another(site, before)

    revoked = site.json_of("revoke", ecdsa, "--reason", "superseded", "--yes")
    assert revoked["result"] == "issued"
    pem = after.public_bytes(serialization.Encoding.PEM)
    assert site.ca.certificate_status(pem) == "Revoked"
    another(site, after)


def another(site: Site, before: x509.Certificate) -> x509.Certificate:
    """What a worker shows instead of that one, whichever is asked."""

    def shown() -> x509.Certificate | None:
        leaves = [site.leaf("a.example.test") for _ in range(8)]
        return leaves[0] if before not in leaves and len(set(leaves)) == 1 else None

    found = eventually(shown)
    assert found is not None
    return found


def test_a_pair_out_and_another_in(site: Site, tmp_path: Path) -> None:
    ecdsa = site.ids()["ecdsa-p256"]
    site.json_of("export", ecdsa, "--to", str(tmp_path / "out"))
    chain, key = tmp_path / "out" / "fullchain.pem", tmp_path / "out" / "privkey.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    shown = site.leaf("a.example.test")
    assert x509.load_pem_x509_certificate(chain.read_bytes()) == shown

    foreign_chain, foreign_key = self_signed(["other.example.test"], datetime.now(UTC))
    chain.write_bytes(foreign_chain)
    refused = site.certs("import", ecdsa, "--chain", str(chain), "--key", str(key), "--json")
    assert refused.returncode == 2
    assert "key" in refused.stderr
    key.write_bytes(foreign_key)
    refused = site.certs("import", ecdsa, "--chain", str(chain), "--key", str(key))
    assert refused.returncode == 2
    assert site.leaf("a.example.test") == shown


def test_a_worker_loads_nothing_of_what_orders(site: Site) -> None:
    """Every worker would pay for the memory."""
    assert site.node.process is not None
    lines = (site.node.directory / "imports").read_text().splitlines()
    assert {line.split()[1] for line in lines} == {"acme", "josepy", "aioboto3", "botocore"}
    assert {int(line.split()[0]) for line in lines} == {site.node.process.pid}
    assert site.node.log.count("is served, valid") >= 2 * 3, "workers have shown certificates"


def test_figures_of_a_scrape(site: Site) -> None:
    _, text = site.page("/metrics")
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


def test_no_log_holds_a_secret(site: Site, tmp_path: Path) -> None:
    """After all that was done before; the CA's answers and the commands' included."""
    site.certs("export", site.ids()["rsa-2048"], "--to", str(tmp_path))
    body = [line for line in (tmp_path / "privkey.pem").read_text().splitlines() if "-" not in line]
    log = site.node.log
    assert "issued by" in log
    for secret in (body[1], KEY_SECRET, ENCRYPTION_KEY, "PRIVATE KEY"):
        assert secret not in log
