from __future__ import annotations

import pytest

from node.config.acmerules import authorities_of, directory_of, wanted_of
from tls.retry import PRODUCTION, STAGING
from tls.wanted import KeyType

from .loading import load_text

WHOLE = {
    "email": '"admin@example.com"',
    "domains": '["mail.example.com"]',
    "s3.bucket": '"certs"',
    "encryption_key": '"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="',
}
REST = (
    '[database.write]\nhosts = ["db"]\nuser = "u"\npassword = "p"\nname = "n"\n'
    '[s3]\nendpoint = "s3.example"\naccess_key = "A"\nsecret_key = "B"\nbucket = "mail"\n'
    '[servers.imap]\naddr = ":143"\n'
)


def text(more: str = "", **changed: str) -> str:
    options = {**WHOLE, **{key.replace("__", "."): value for key, value in changed.items()}}
    lines = [f"{key} = {value}" for key, value in options.items() if value]
    return "\n".join(
        ["[tls]", "enabled = true", 'provider = "letsencrypt"', "[tls.letsencrypt]", *lines, more, REST]
    )


def problems(more: str = "", **changed: str) -> list[tuple[str, str]]:
    found = load_text(text(more, **changed)).problems
    return [
        (each.severity, each.key.removeprefix("tls.letsencrypt."))
        for each in found
        if each.code != "inactive"
    ]


def test_a_whole_section_is_fine() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"email": ""}, ("error", "email")),
        ({"email": '"admin"'}, ("error", "email")),
        ({"email": '"a@b.example, c@d.example"'}, ("error", "email")),
        ({"domains": ""}, ("error", "domains")),
        ({"domains": '[""]'}, ("error", "domains")),
        ({"domains": '["*.example.com"]'}, ("error", "domains")),
        ({"domains": '["192.0.2.1"]'}, ("error", "domains")),
        ({"domains": '["mail.example.com:993"]'}, ("error", "domains")),
        ({"domains": '["https://mail.example.com"]'}, ("error", "domains")),
        ({"domains": '["a..example.com"]'}, ("error", "domains")),
        ({"domains": '["a.example.com", "A.example.com."]'}, ("warning", "domains")),
        ({"domains": str([f"n{number}.example.com" for number in range(101)])}, ("error", "domains")),
        ({"s3__bucket": ""}, ("error", "s3.bucket")),
        ({"s3__access_key": '"AKIA1"'}, ("error", "s3.secret_key")),
        ({"encryption_key": ""}, ("warning", "encryption_key")),
        ({"eab_kid": '"kid"'}, ("error", "eab_hmac_key")),
        ({"eab_hmac_key": '"zWNDZM6eQGHWpSRTPal5eIUYFTu7Ea"'}, ("error", "eab_kid")),
        ({"eab_kid": '"kid"', "eab_hmac_key": '"no key!"'}, ("error", "eab_hmac_key")),
        ({"key_types": '["ecdsa"]'}, ("error", "key_types")),
        ({"key_types": "[]"}, ("error", "key_types")),
        ({"directory": '"http://ca.example.com/dir"'}, ("error", "directory")),
        ({"directory": '"prod"'}, ("error", "directory")),
        ({"directory": '"https://"'}, ("error", "directory")),
        ({"directory": '"https://[::1/dir"'}, ("error", "directory")),
        ({"directory": '"staging"'}, ("warning", "directory")),
        ({"fallback_directories": '["production"]'}, ("warning", "fallback_directories")),
        ({"fallback_directories": '["ftp://ca.example.com"]'}, ("error", "fallback_directories")),
        ({"default_domain": '"other.example.com"'}, ("error", "default_domain")),
        ({"default_domain": '"not a name"'}, ("error", "default_domain")),
        ({"dns__provider": '"exec"'}, ("error", "dns.command")),
        ({"dns": '{provider = "rfc2136", server = "a", key_name = "k"}'}, ("error", "dns.key_secret")),
        ({"fallback_dir": '""'}, ("error", "fallback_dir")),
        ({"renew_before": '"59m"'}, ("error", "renew_before")),
    ],
)  # fmt: skip
def test_each_mistake_names_its_key(changed: dict[str, str], expected: tuple[str, str]) -> None:
    assert problems(**changed) == [expected]


def test_every_error_says_what_to_do() -> None:
    for changed in (
        {"directory": '"prod"'},
        {"domains": '["*.example.com"]'},
        {"eab_kid": '"kid"', "eab_hmac_key": '"no key!"'},
    ):
        errors = [each for each in load_text(text(**changed)).problems if each.severity == "error"]
        assert errors
        assert all(each.suggestion for each in errors)


@pytest.mark.parametrize(
    "changed",
    [
        {"directory": '"http://127.0.0.1:14000/dir"'},
        {"directory": '"http://localhost:14000/dir"'},
        {"key_type": '"rsa-2048"'},
        {"domains": '["*.example.com"]', "dns__provider": '"exec"', "dns__command": '"/etc/sora/acme-dns"'},
        {"default_domain": '"Mail.Example.com"'},
        {"domains": '["bücher.example"]', "default_domain": '"xn--bcher-kva.example"'},
    ],
)
def test_what_may_be(changed: dict[str, str]) -> None:
    assert problems(**changed) == []


def test_further_certificates() -> None:
    more = (
        '[[tls.letsencrypt.certificate]]\ndomains = ["b.example.org"]\n'
        '[[tls.letsencrypt.certificate]]\ndomains = ["c.example.org"]\nkey_types = ["rsa-2048"]\n'
    )
    config = load_text(text(more, key_types='["ecdsa-p256", "rsa-4096"]', profile='"short"')).config
    assert config is not None
    wanted, faults = wanted_of(config.tls.letsencrypt)
    assert not faults
    assert [(each.names, each.key_type) for each in wanted] == [
        (("mail.example.com",), KeyType.P256),
        (("mail.example.com",), KeyType.RSA4096),
        (("b.example.org",), KeyType.P256),
        (("b.example.org",), KeyType.RSA4096),
        (("c.example.org",), KeyType.RSA2048),
    ]
    assert {each.profile for each in wanted} == {"short"}


def test_further_certificates_need_names_and_may_be_all_there_are() -> None:
    table = "[[tls.letsencrypt.certificate]]\n"
    assert problems(table) == [("error", "certificate[0].domains")]
    assert problems(table + 'domains = ["b.example.org"]\n', domains="") == []
    assert problems(table + 'domains = ["mail.example.com"]\n') == [("warning", "certificate[0].domains")]


AUTHORITY = '[[tls.letsencrypt.authority]]\ndirectory = "https://b.example/dir"\n'
KID, KEY = 'eab_kid = "kid"\n', 'eab_hmac_key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7Ea"\n'


def test_authorities_in_their_order_each_with_its_account() -> None:
    more = (
        f'{AUTHORITY}email = "b@example.com"\nca_file = "/b.pem"\n{KID}{KEY}preferred_chain = "B"\n'
        '[[tls.letsencrypt.authority]]\ndirectory = "staging"\n'
    )
    config = load_text(
        text(more, fallback_directories='["https://a.example/dir"]', ca_file='"/own.pem"')
    ).config
    assert config is not None
    plain, second, third = [each.authority for each in authorities_of(config.tls.letsencrypt)][1:]
    assert (plain.directory, plain.email, plain.ca_file) == (
        "https://a.example/dir",
        "admin@example.com",
        "/own.pem",
    )
    assert (second.directory, second.email, second.ca_file) == (
        "https://b.example/dir",
        "b@example.com",
        "/b.pem",
    )
    assert (second.eab_kid, second.preferred_chain) == ("kid", "B")
    assert second.eab_hmac_key.reveal() == "zWNDZM6eQGHWpSRTPal5eIUYFTu7Ea"
    assert (third.directory, third.email, third.ca_file, third.eab_kid) == (
        "staging",
        "admin@example.com",
        "",
        "",
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (AUTHORITY, None),
        (AUTHORITY + KID + KEY, None),
        (AUTHORITY + KID, ("error", "authority[0].eab_hmac_key")),
        (AUTHORITY + KEY, ("error", "authority[0].eab_kid")),
        (AUTHORITY + KID + 'eab_hmac_key = "no key!"\n', ("error", "authority[0].eab_hmac_key")),
        (AUTHORITY + 'email = "admin"\n', ("error", "authority[0].email")),
        (AUTHORITY + AUTHORITY, ("warning", "authority[1].directory")),
        ("[[tls.letsencrypt.authority]]\n" + KID + KEY, ("error", "authority[0].directory")),
        (AUTHORITY.replace("https", "http"), ("error", "authority[0].directory")),
    ],
)
def test_mistakes_about_a_further_authority(more: str, expected: tuple[str, str] | None) -> None:
    assert problems(more) == ([] if expected is None else [expected])


def test_an_error_about_the_second_authority_names_key_line_and_cure() -> None:
    whole = text(f"{AUTHORITY}{AUTHORITY.replace('b.', 'c.')}{KID}" + 'eab_hmac_key = "no key!"\n')
    (error,) = [each for each in load_text(whole).problems if each.severity == "error"]
    assert error.key == "tls.letsencrypt.authority[1].eab_hmac_key"
    assert error.line == whole.splitlines().index('eab_hmac_key = "no key!"') + 1
    assert error.suggestion
    assert "no key!" not in str(error)


def test_words_for_directories() -> None:
    assert directory_of("Production") == PRODUCTION
    assert directory_of("staging") == STAGING
    assert directory_of("https://ca.example/dir") == "https://ca.example/dir"
