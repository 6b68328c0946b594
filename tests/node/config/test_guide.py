"""Every block of the configuration guide loads: all that is said about it is listed here.

The blocks are fragments with placeholders for secrets, so what is missing or a placeholder is reported;
nothing else may be an error, and no key may be unknown.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from node.units import Address

from .loading import brief, load_text

GUIDE = Path(__file__).parent / "guide"
BLOCKS = sorted(GUIDE.glob("*.toml"))

NO_DATABASE = ("error", "missing", "database")
NO_S3 = [
    ("error", "missing", "s3.endpoint"),
    ("error", "missing", "s3.access_key"),
    ("error", "missing", "s3.secret_key"),
    ("error", "missing", "s3.bucket"),
]
NO_SERVER = ("warning", "missing", "servers")
S3_PLACEHOLDERS = [("error", "placeholder", "s3.access_key"), ("error", "placeholder", "s3.secret_key")]

EXPECTED = {
    "01-minimal": [
        *S3_PLACEHOLDERS,
        ("warning", "placeholder", "s3.bucket"),
    ],
    "02-server-timeouts": [NO_DATABASE, *NO_S3],
    "03-proxy-timeouts": [("notice", "inactive", "servers.imap_proxy")],
    "04-cluster": [
        NO_DATABASE,
        *NO_S3,
        NO_SERVER,
        ("error", "placeholder", "cluster.secret_key"),
    ],
    "05-rate-limit-sync": [NO_DATABASE, *NO_S3, NO_SERVER, ("warning", "unused", "cluster")],
    "06-tls-files": [NO_DATABASE, *NO_S3],
    "07-tls-letsencrypt": [
        NO_DATABASE,
        *NO_S3,
        NO_SERVER,
        ("warning", "inadvisable", "tls.letsencrypt.encryption_key"),
    ],
    "08-shared-mailboxes": [NO_DATABASE, *NO_S3, NO_SERVER, ("notice", "inactive", "shared_mailboxes")],
    "09-relay": [
        NO_DATABASE,
        *NO_S3,
        NO_SERVER,
    ],
    "10-ja4": [
        NO_DATABASE,
        *NO_S3,
        ("error", "missing", "servers[0].addr"),
    ],
    "11-standalone": S3_PLACEHOLDERS,
    "12-clustered": [
        *S3_PLACEHOLDERS,
        ("error", "placeholder", "cluster.secret_key"),
        ("notice", "inactive", "shared_mailboxes"),
        ("notice", "inactive", "servers[1]"),
        ("error", "placeholder", "servers[1].api_key"),
    ],
    "13-proxy": [("notice", "inactive", "servers[0]"), ("notice", "inactive", "servers[1]")],
    # PROXY protocol without knowing whom to trust must not start.
    "14-backend": [
        *NO_S3,
        ("error", "missing", "servers[0].proxy_protocol.trusted_proxies"),
    ],
}
PLACEHOLDERS = {
    "YOUR_S3_ACCESS_KEY": "AKIA1",
    "YOUR_S3_SECRET_KEY": "wJalr",
    "your-sora-mail-bucket": "mail",
    "your-access-key": "AKIA1",
    "your-secret-key": "wJalr",
    "your-secure-api-key": "6b1d0c9e5a7f4d2b",
    '"base64-encoded-secret-key"': '"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="',
}


def test_every_block_is_here() -> None:
    assert [path.stem for path in BLOCKS] == list(EXPECTED)


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_block_loads_with_exactly_these_remarks(path: Path) -> None:
    loaded = load_text(path.read_text())
    assert sorted(brief(problem) for problem in loaded.problems) == sorted(EXPECTED[path.stem])


@pytest.mark.parametrize("name", ["01-minimal", "11-standalone", "12-clustered"])
def test_whole_examples_can_be_used_once_secrets_are_filled_in(name: str) -> None:
    text = (GUIDE / f"{name}.toml").read_text()
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    loaded = load_text(text)
    assert loaded.config is not None
    assert {problem.severity for problem in loaded.problems} <= {"notice"}


def test_values_of_the_clustered_example() -> None:
    text = (GUIDE / "12-clustered.toml").read_text()
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    config = load_text(text).config
    assert config is not None
    assert config.logging.output == "stdout"
    assert config.database.write.addresses == (Address("postgres-primary.internal", 5432),)
    assert config.database.write.name == "sora_mail_db"
    assert config.database.write.max_connections == 100
    assert config.database.read is not None
    assert config.database.read.addresses == (
        Address("postgres-replica-1.internal", 5432),
        Address("postgres-replica-2.internal", 5432),
    )
    assert config.database.read.user == "sora"
    assert config.database.read.password.reveal() == "secure-password"
    assert config.cluster.bind == Address("10.0.1.10", 7946)
    assert config.cluster.secret_key.reveal() == b"01234567890123456789012345678901"
    assert config.tls.letsencrypt.renew_before_s == 30 * 86400
    imap, api = config.servers
    assert (imap.type, imap.addr, imap.max_connections) == ("imap", Address("", 993), 5000)
    assert imap.auth_rate_limit.enabled
    assert imap.auth_rate_limit.max_attempts_per_ip == 10
    assert imap.auth_rate_limit.fast_block_threshold == 5
    assert (api.type, [str(network) for network in api.allowed_hosts]) == (
        "http_api",
        ["10.0.0.0/8", "172.16.0.0/12"],
    )


def test_documented_defaults() -> None:
    text = (GUIDE / "13-proxy.toml").read_text()
    config = load_text(text).config
    assert config is not None
    server = config.servers[0]
    assert server.command_timeout_s == 300
    assert server.absolute_session_timeout_s == 1800
    assert server.min_bytes_per_minute == 1024
    assert config.cluster.port == 7946
    assert config.tls.letsencrypt.renew_before_s == 720 * 3600
