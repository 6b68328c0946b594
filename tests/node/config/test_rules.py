"""Rules about settings taken together."""

from __future__ import annotations

import base64

import pytest

from node.config import Config, Secret, features
from node.config.rules import RULES as SECTION_RULES
from node.config.serverrules import RULES as SERVER_RULES

from .loading import STORAGE, brief, load_text, node_with, problems_of

KEY = base64.b64encode(bytes(range(32))).decode()
CLUSTER = f'[cluster]\nenabled = true\npeers = ["10.0.0.2"]\nsecret_key = "{KEY}"\n'
SMTP = '[relay]\ntype = "smtp"\nsmtp_host = "mx.test"\n'
HTTP = '[relay]\ntype = "http"\nhttp_url = '
IMAP = '[servers.imap]\naddr = ":143"\n'
METRICS = '[servers.metrics]\naddr = "127.0.0.1:9090"\n'


def found(text: str) -> set[tuple[str, str, str]]:
    return {brief(problem) for problem in problems_of(STORAGE + text)} - {("warning", "missing", "servers")}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[s3]\nencrypt = true", ("error", "missing", "s3.encryption_key")),
        ('[s3]\nencrypt = true\nencryption_key = "short"', ("error", "value", "s3.encryption_key")),
        ('[s3]\nprevious_encryption_keys = ["short"]', ("error", "value", "s3.previous_encryption_keys")),
    ],
)
def test_objects(text: str, problem: tuple[str, str, str]) -> None:
    storage = STORAGE.replace("[s3]", text, 1)
    assert problem in {brief(each) for each in problems_of(storage)}


SECRET = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (f'srs_domain = "example.org"\nsrs_secret = "{SECRET}"', set()),
        (f'srs_domain = "example.org"\nsrs_secret = "{SECRET}"\nsrs_secret_old = "{SECRET}"', set()),
        ('srs_domain = "example.org"', {("error", "missing", "sieve.srs_secret")}),
        (f'srs_secret = "{SECRET}"', {("error", "missing", "sieve.srs_domain")}),
        (
            f'srs_domain = "example.org"\nsrs_secret = "{SECRET[1:]}"',
            {("error", "conflict", "sieve.srs_secret")},
        ),
        (f'srs_domain = "a b"\nsrs_secret = "{SECRET}"', {("error", "conflict", "sieve.srs_domain")}),
    ],
)
def test_sender_rewriting(text: str, problems: set[tuple[str, str, str]]) -> None:
    assert found(f"[sieve]\n{text}\n") == problems


@pytest.mark.parametrize("word", ["idle", "QRESYNC", "X-ICEWARP-SERVER", "AUTH=PLAIN", "AppendLimit"])
def test_capabilities_that_may_be_taken_away(word: str) -> None:
    assert not found(IMAP + f'disabled_caps = ["{word}"]')


def test_a_misspelt_capability_is_guessed() -> None:
    (problem,) = problems_of(STORAGE + IMAP + 'disabled_caps = ["CONSTORE"]')
    assert (problem.message, problem.suggestion) == (
        '"CONSTORE" is no IMAP capability',
        'did you mean "CONDSTORE"?',
    )


def test_file_driver_needs_no_credentials_but_excludes_a_cluster() -> None:
    text = '[database.write]\n[s3]\ndriver = "file"\n' + IMAP
    assert load_text(text).config is not None
    assert ("error", "conflict", "s3.driver") in {
        brief(each) for each in problems_of(text + CLUSTER + 'addr = "10.0.0.1"')
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[database.read]\nuser = "reader"', ("error", "missing", "database.read.hosts")),
        ("[database.read]\nmin_connections = 60", ("error", "conflict", "database.read.min_connections")),
        ('[uploader]\nstaging = "disk"\npath = "/tmp/x"', ("warning", "inadvisable", "uploader.path")),
        ('[tls]\nenabled = true\ncert_file = "/c"', ("error", "missing", "tls.key_file")),
        (
            '[tls]\nenabled = true\nprovider = "letsencrypt"',
            ("error", "missing", "tls.letsencrypt.email"),
        ),
        (
            '[tls]\nenabled = true\nprovider = "letsencrypt"\n[tls.letsencrypt]\ndomains = ["*.example.com"]',
            ("error", "value", "tls.letsencrypt.domains"),
        ),
        ('[relay]\ntype = "smtp"', ("error", "missing", "relay.smtp_host")),
        ('[relay]\ntype = "smtp"\nsmtp_host = ":25"', ("error", "value", "relay.smtp_host")),
        ('[relay]\ntype = "smtp"\nsmtp_host = "/run/mx"', ("error", "value", "relay.smtp_host")),
        ('[relay]\ntype = "http"', ("error", "missing", "relay.http_url")),
        ('[relay]\nsmtp_host = "h"', ("error", "missing", "relay.type")),
        (f'{HTTP}"mx.test/mail"', ("error", "value", "relay.http_url")),
        (f'{HTTP}"ftp://mx.test/mail"', ("error", "value", "relay.http_url")),
        (f'{HTTP}"http://mx.test/mail"\nauth_token = "t"', ("warning", "inadvisable", "relay.http_url")),
        (
            f"{SMTP}smtp_use_starttls = true\nsmtp_tls = false",
            ("error", "conflict", "relay.smtp_use_starttls"),
        ),
        (f'{SMTP}smtp_tls_cert_file = "/c"', ("error", "missing", "relay.smtp_tls_key_file")),
        (f'{SMTP}smtp_tls = false\nsmtp_username = "u"', ("warning", "inadvisable", "relay.smtp_tls")),
        (
            f'{SMTP}smtp_tls_verify = false\nsmtp_tls_ca_file = "/ca"',
            ("error", "conflict", "relay.smtp_tls_ca_file"),
        ),
        ("[relay_queue]\nenabled = true", ("warning", "unused", "relay_queue")),
        ('[shared_mailboxes]\ndefault_rights = "lrz"', ("error", "value", "shared_mailboxes.default_rights")),
        (
            '[shared_mailboxes]\nnamespace_prefix = "S"',
            ("error", "value", "shared_mailboxes.namespace_prefix"),
        ),
        ("[spam_training]\nenabled = true", ("error", "missing", "spam_training.endpoint")),
        (
            '[spam_training]\nenabled = true\nendpoint = "filter:80"',
            ("error", "value", "spam_training.endpoint"),
        ),
        (
            '[spam_training]\nenabled = true\nendpoint = "http://filter.test/"\nauth_token = "x"',
            ("warning", "inadvisable", "spam_training.endpoint"),
        ),
        ('[sieve]\nspam_fields = ["X-Spam yes"]', ("error", "value", "sieve.spam_fields")),
        (
            '[servers.i]\ntype = "imap"\naddr = ":1"\ntls = true',
            ("error", "missing", "servers.i.tls_cert_file"),
        ),
        (IMAP + 'tls_cert_file = "/c"', ("error", "missing", "servers.imap.tls_key_file")),
        (IMAP + '[servers.b]\ntype = "imap"\naddr = ":143"', ("error", "conflict", "servers.b.addr")),
        (IMAP + '[servers.b]\ntype = "imap"\naddr = "[::1]:143"', ("error", "conflict", "servers.b.addr")),
        (
            IMAP + '[servers.b]\ntype = "imap"\nname="imap"\naddr = ":1"',
            ("error", "conflict", "servers.b.name"),
        ),
        (
            '[servers.pop3]\naddr = ":1"\ncommand_timeout = "9m59s"',
            ("warning", "inadvisable", "servers.pop3.command_timeout"),
        ),
        (
            IMAP + 'command_timeout = "40m"',
            ("warning", "inadvisable", "servers.imap.absolute_session_timeout"),
        ),
        (
            '[servers.managesieve]\naddr = ":1"\nsupported_extensions = ["editheader"]',
            ("warning", "unused", "servers.managesieve.supported_extensions"),
        ),
        (
            '[sieve]\nenabled_extensions = ["vacation"]\n'
            '[servers.managesieve]\naddr = ":1"\nsupported_extensions = ["vacation", "regex"]',
            ("warning", "unused", "servers.managesieve.supported_extensions"),
        ),
        ('[servers.imap_proxy]\naddr = ":1"', ("error", "missing", "servers.imap_proxy.remote_addrs")),
        (
            '[servers.imap_proxy]\naddr = ":1"\nremote_addrs = ["b"]\n' + IMAP,
            ("warning", "inadvisable", "servers.imap_proxy.command_timeout"),
        ),
        (
            '[servers.imap_proxy]\naddr = ":1"\nremote_addrs = ["b"]\ncommand_timeout = "20s"',
            ("warning", "inadvisable", "servers.imap_proxy.command_timeout"),
        ),
        (IMAP + 'master_username = "m"', ("error", "missing", "servers.imap.master_password")),
        (IMAP + 'master_sasl_password = "m"', ("error", "missing", "servers.imap.master_sasl_username")),
        (
            IMAP + 'master_sasl_username = "m"\nmaster_sasl_password = "m"',
            ("warning", "inadvisable", "servers.imap.master_sasl_allowed_networks"),
        ),
        (IMAP + "insecure_auth = true", ("warning", "inadvisable", "servers.imap.insecure_auth")),
        ('[servers.http_api]\naddr = ":1"', ("error", "missing", "servers.http_api.api_key")),
        (
            '[servers.http_api]\naddr = ":1"\napi_key = "short"',
            ("error", "value", "servers.http_api.api_key"),
        ),
        ('[servers.metrics]\naddr = ":1"', ("warning", "inadvisable", "servers.metrics.api_key")),
        (METRICS + 'api_key = "short"', ("error", "value", "servers.metrics.api_key")),
        (METRICS + 'path = "/readyz"', ("error", "conflict", "servers.metrics.path")),
        (METRICS + 'path = "figures"', ("error", "conflict", "servers.metrics.path")),
        (
            METRICS + 'proxy_protocol = {enabled = true, trusted_proxies = ["10.0.0.1"]}',
            ("error", "conflict", "servers.metrics.proxy_protocol"),
        ),
        ('[servers.http_user_api]\naddr = ":1"', ("error", "missing", "servers.http_user_api.jwt_secret")),
        (IMAP + "proxy_protocol = true", ("error", "missing", "servers.imap.proxy_protocol.trusted_proxies")),
        (
            IMAP + '[[servers.imap.client_filters]]\nreason = "x"',
            ("warning", "unused", "servers.imap.client_filters[0]"),
        ),
        (IMAP + 'disabled_caps = ["IDEL"]', ("error", "value", "servers.imap.disabled_caps")),
        (IMAP + 'disabled_caps = ["X"]', ("error", "value", "servers.imap.disabled_caps")),
        (
            IMAP + '[[servers.imap.client_filters]]\nclient_name = "x"\ndisable_caps = ["IDLE", "CONSTORE"]',
            ("error", "value", "servers.imap.client_filters[0].disable_caps"),
        ),
    ],
)
def test_rule_speaks(text: str, problem: tuple[str, str, str]) -> None:
    assert problem in found(text)


@pytest.mark.parametrize(
    "text",
    [
        IMAP,
        IMAP + '[servers.b]\ntype = "imap"\naddr = ":993"',
        '[servers.a]\ntype="imap"\naddr="10.0.0.1:143"\n[servers.b]\ntype="imap"\naddr="10.0.0.2:143"',
        '[servers.a]\ntype="imap"\naddr=":0"\n[servers.b]\ntype="imap"\naddr=":0"',
        IMAP + '[servers.b]\ntype="imap"\naddr=":143"\nstart=false',
        '[servers.pop3]\naddr = ":110"',
        METRICS,
        '[servers.metrics]\naddr = ":9090"\nallowed_hosts = ["10.0.0.0/8"]',
        '[servers.metrics]\naddr = ":9090"\napi_key = "0123456789abcdef"',
        '[servers.pop3]\naddr = ":110"\ncommand_timeout = "10m"',
        IMAP + 'tls = true\ntls_cert_file = "/c"\ntls_key_file = "/k"',
        '[tls]\nenabled=true\ncert_file="/c"\nkey_file="/k"\n' + IMAP + "tls = true",
        '[servers.imap]\naddr = "127.0.0.1:143"\ninsecure_auth = true',
        '[uploader]\npath = "/tmp/x"\n' + IMAP,
        "[database.write2]\n" * 0 + IMAP,
    ],
)
def test_rules_are_silent(text: str) -> None:
    assert not problems_of(STORAGE + text)


@pytest.mark.parametrize(
    ("addr", "severity"),
    [
        ("10.0.0.1:7946", None),
        ("10.0.0.1", None),
        ("fd00::1", None),
        ("[fd00::1]:7946", None),
        ("127.0.0.2", "error"),
        ("224.0.0.1", "error"),
        ("0.0.0.0", "error"),
        ("0.0.0.0:7946", "error"),
        ("localhost", "error"),
        ("127.0.0.1", "error"),
        ("127.0.0.1:7946", "error"),
        ("::", "error"),
        ("::1", "error"),
        ("[::]:7946", "error"),
        ("[::1]:7946", "error"),
        (":7946", "error"),
        ("node-1.example.com", "error"),
        ("not an address", "error"),
        ("", "error"),
    ],
)
def test_cluster_address(addr: str, severity: str | None) -> None:
    said = [p for p in problems_of(f'{STORAGE}{IMAP}{CLUSTER}addr = "{addr}"') if p.key == "cluster.addr"]
    assert [problem.severity for problem in said] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("addr", "severity"), [("127.0.0.2", "warning"), ("::1", "warning"), ("0.0.0.0", "error")]
)
def test_loopback_addresses_are_for_tests_that_ask_for_them(addr: str, severity: str) -> None:
    text = f'{STORAGE}{IMAP}{CLUSTER}testing_allow_loopback = true\naddr = "{addr}"'
    assert [p.severity for p in problems_of(text) if p.key == "cluster.addr"] == [severity]


def test_the_advertised_address_has_the_same_rules() -> None:
    text = STORAGE + IMAP + CLUSTER + 'addr = "10.0.0.1"\nadvertise_addr = "0.0.0.0"'
    assert [p.severity for p in problems_of(text) if p.key == "cluster.advertise_addr"] == ["error"]
    config = load_text(text.replace("0.0.0.0", "198.51.100.7")).config
    assert config is not None
    assert str(config.cluster.advertise) == "198.51.100.7:7946"


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ('rpc_addr = "127.0.0.1:7373"', False),
        ('rpc_addr = "[::1]:7373"', False),
        ('rpc_addr = "0.0.0.0:7373"', True),
        ('rpc_addr = "10.0.0.1:7373"', True),
        ('rpc_addr = "10.0.0.1:7373"\nrpc_auth_key = "long enough to be one"', False),
        ('rpc_addr = "localhost:7373"', True),
    ],
)
def test_the_agent_rpc_is_open_to_this_machine_only_or_has_a_key(text: str, is_wrong: bool) -> None:
    said = problems_of(f'{STORAGE}{IMAP}{CLUSTER}addr = "10.0.0.1"\n{text}')
    assert any(p.key == "cluster.rpc_addr" and p.severity == "error" for p in said) is is_wrong


@pytest.mark.parametrize("node_id", ["-", "a b", "a/b", "x" * 129])
def test_node_ids_are_names(node_id: str) -> None:
    text = STORAGE + IMAP + CLUSTER + f'addr = "10.0.0.1"\nnode_id = "{node_id}"'
    assert "cluster.node_id" in {p.key for p in problems_of(text) if p.severity == "error"}


@pytest.mark.parametrize("key", ["", KEY[:-4], "!" * 44, base64.b64encode(bytes(16)).decode()])
def test_cluster_key_is_32_bytes(key: str) -> None:
    text = CLUSTER.replace(KEY, key) + 'addr = "10.0.0.1"'
    assert "cluster.secret_key" in {p.key for p in problems_of(STORAGE + text) if p.severity == "error"}


@pytest.mark.parametrize("spelling", [KEY, bytes(range(32)).hex()])
def test_keys_in_both_spellings(spelling: str) -> None:
    text = STORAGE.replace("[s3]", f'[s3]\nencrypt = true\nencryption_key = "{spelling}"') + IMAP
    config = load_text(text).config
    assert config is not None
    assert config.s3.encryption_key == Secret(bytes(range(32)))


def test_own_address_among_peers_is_dropped_with_a_warning() -> None:
    text = CLUSTER.replace('"10.0.0.2"', '"10.0.0.1:7946", "10.0.0.2", "10.0.0.1:7947"') + 'addr = "10.0.0.1"'
    loaded = load_text(STORAGE + IMAP + text)
    assert ("warning", "unused", "cluster.peers") in map(brief, loaded.problems)
    assert loaded.config is not None
    assert loaded.config.cluster.peers == ("10.0.0.2", "10.0.0.1:7947")


def test_a_failed_option_is_not_reported_as_missing_too() -> None:
    said = [p for p in problems_of(STORAGE + CLUSTER + "addr = 5") if p.key == "cluster.addr"]
    assert [problem.code for problem in said] == ["value"]


def test_trusted_networks_stand_for_trusted_proxies() -> None:
    text = 'trusted_networks = ["10.0.0.0/8"]\n' + STORAGE + IMAP + "proxy_protocol = true"
    assert not problems_of(text)


def test_servers_with_tls_need_no_files_when_certificates_are_issued() -> None:
    text = (
        '[tls]\nenabled = true\nprovider = "letsencrypt"\n[tls.letsencrypt]\nemail = "a@example.com"\n'
        'domains = ["mail.example.com"]\ns3.bucket = "certs"\n'
    )
    assert found(text + IMAP + "tls = true") == {("warning", "inadvisable", "tls.letsencrypt.encryption_key")}


def test_an_active_feature_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    text = STORAGE + IMAP + "[servers.imap.lookup_cache]\nmax_size = 7"
    assert [problem.code for problem in problems_of(text)] == ["inactive"]
    monkeypatch.setattr(features, "ACTIVE_FEATURES", features.ACTIVE_FEATURES | {"lookup cache"})
    assert not problems_of(text)


def test_a_proxy_needs_no_storage() -> None:
    text = '[servers.imap_proxy]\naddr = ":1"\nremote_addrs = ["b"]'
    assert load_text(text).config is not None


def test_defaults_by_themselves_break_no_rule() -> None:
    assert len(SECTION_RULES) + len(SERVER_RULES) > 15
    assert node_with(IMAP) != Config()


def test_a_group_belongs_to_a_user() -> None:
    group = 'group = "sora"\n'
    assert ("error", "missing", "user") in {brief(each) for each in problems_of(group + STORAGE + IMAP)}
    assert ("error", "missing", "user") not in {
        brief(each) for each in problems_of(f'user = "sora"\n{group}{STORAGE}{IMAP}')
    }
