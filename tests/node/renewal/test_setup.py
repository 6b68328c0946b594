from __future__ import annotations

from dataclasses import replace

import pytest

from node.config import Config
from node.config.acme import AcmeAuthority, AcmeCertificate, AcmeDns, AcmeStore, LetsEncrypt
from node.config.secret import Secret
from node.config.services import Cluster, Tls
from node.config.storage import S3
from node.renewal import setup
from tls.retry import PRODUCTION, STAGING
from tls.vault.sealing import Kind, Label, NotUsable, Seals
from tls.wanted import KeyType

KEY, OTHER = bytes([1] * 32), bytes([2] * 32)
LABEL = Label(Kind.ACCOUNT, "0" * 16)
NONCE = bytes(24)


def config(acme: LetsEncrypt | None = None, **more: object) -> Config:
    section = acme or LetsEncrypt(email="a@example.com", domains=("mail.example.com",))
    tls = Tls(enabled=True, provider="letsencrypt", letsencrypt=section)
    return replace(Config(), tls=tls, **more)  # type: ignore[arg-type]


def opens(seals: Seals, secret: bytes) -> bool:
    sealed = Seals([secret]).seal(LABEL, b"content", NONCE)
    try:
        return seals.open(LABEL, sealed) == b"content"
    except NotUsable:
        return False


def test_a_plan() -> None:
    acme = LetsEncrypt(
        email="a@example.com",
        domains=("mail.example.com",),
        key_types=("ecdsa-p256", "rsa-2048"),
        certificate=(AcmeCertificate(domains=("*.example.org",)),),
        dns=AcmeDns(provider="exec", command="/bin/true"),
        eab_kid="kid",
        eab_hmac_key=Secret("key"),
        fallback_directories=("https://ca.example/dir",),
    )
    plan = setup.plan_of(config(acme))
    assert [(each.names, each.key_type) for each in plan.wanted] == [
        (("mail.example.com",), KeyType.P256),
        (("mail.example.com",), KeyType.RSA2048),
        (("*.example.org",), KeyType.P256),
        (("*.example.org",), KeyType.RSA2048),
    ]
    assert [(ca.directory, ca.eab_kid) for ca in plan.cas] == [
        (PRODUCTION, "kid"),
        ("https://ca.example/dir", ""),
    ]
    assert plan.use_dns


def test_every_authority_has_an_account_of_its_own_and_is_asked_once() -> None:
    bound = AcmeAuthority(
        "https://b.example/dir", "b@example.com", "/b.pem", "b", Secret("key of b"), "B root"
    )
    acme = LetsEncrypt(
        email="a@example.com",
        domains=("mail.example.com",),
        fallback_directories=("https://ca.example/dir", "production"),
        authority=(bound, AcmeAuthority("staging"), replace(bound, eab_kid="not this")),
    )
    cas = setup.plan_of(config(acme)).cas
    assert [(ca.directory, ca.email, ca.eab_kid) for ca in cas] == [
        (PRODUCTION, "a@example.com", ""),
        ("https://ca.example/dir", "a@example.com", ""),
        ("https://b.example/dir", "b@example.com", "b"),
        (STAGING, "a@example.com", ""),
    ]
    assert (cas[2].ca_file, cas[2].eab_hmac_key, cas[2].preferred_chain) == ("/b.pem", "key of b", "B root")


def test_the_digest_changes_with_what_a_ca_refuses_an_account_for() -> None:
    acme = LetsEncrypt(email="a@example.com", domains=("mail.example.com",))
    digests = {
        setup.plan_of(config(each)).digest
        for each in (
            acme,
            replace(acme, email="b@example.com"),
            replace(acme, eab_kid="k"),
            replace(acme, authority=(AcmeAuthority("https://b.example/dir"),)),
            replace(acme, authority=(AcmeAuthority("https://b.example/dir", eab_kid="k"),)),
        )
    }
    assert len(digests) == 5
    assert setup.plan_of(config(replace(acme, renew_before_s=7200.0))).digest in digests


def test_orders_are_tried_out_at_staging_or_at_the_ca_itself() -> None:
    acme = LetsEncrypt(email="a@example.com", domains=("mail.example.com",))
    assert setup.staging_of(setup.plan_of(config(acme))).directory == STAGING
    own = replace(acme, directory="https://ca.example/dir")
    assert setup.staging_of(setup.plan_of(config(own))).directory == "https://ca.example/dir"


def test_the_bucket_has_credentials_of_its_own_or_those_of_the_mail() -> None:
    mail = S3(endpoint="s3.local:9000", access_key="A", secret_key=Secret("B"))
    bucket = setup.bucket_of(config(s3=mail))
    assert (bucket.access_key, bucket.secret_key, bucket.url) == ("A", "B", None)
    own = AcmeStore(
        bucket="certs", endpoint="ca:9000", access_key="C", secret_key=Secret("D"), disable_tls=True
    )
    bucket = setup.bucket_of(config(LetsEncrypt(s3=own), s3=mail))
    assert (bucket.access_key, bucket.secret_key, bucket.url) == ("C", "D", "http://ca:9000")


def test_keys_are_sealed_with_the_first_secret_and_opened_with_all() -> None:
    acme = LetsEncrypt(encryption_key=Secret(KEY), previous_encryption_keys=(Secret(OTHER),))
    seals = setup.seals_of(config(acme, cluster=Cluster(secret_key=Secret(bytes([3] * 32)))))
    assert all(opens(seals, secret) for secret in (KEY, OTHER, bytes([3] * 32)))
    assert not opens(seals, bytes([4] * 32))
    assert seals.key_id == Seals([KEY]).key_id


def test_without_any_secret_nothing_can_be_kept() -> None:
    with pytest.raises(setup.RenewalUnusable, match="encryption_key"):
        setup.seals_of(config(s3=S3()))


def test_ways_into_the_dns() -> None:
    acme = LetsEncrypt(domains=("mail.example.com",))
    assert setup.dns_of(config(acme)) is None
    hook = replace(acme, dns=AcmeDns(provider="exec", command="/bin/true"))
    assert setup.dns_of(config(hook)) is not None
    updates = AcmeDns(provider="rfc2136", server="10.0.0.53", key_name="k", key_secret=Secret("a b"))
    with pytest.raises(setup.RenewalUnusable, match="key_secret"):
        setup.dns_of(config(replace(acme, dns=updates)))
