"""Which sections of the configuration differ between nodes, without telling what is in them."""

from __future__ import annotations

from dataclasses import replace

from node.clustering.drift import differing, fingerprint, section_hashes
from node.config import AuthRateLimit, Config, Server
from node.config.secret import Secret
from node.config.services import Cluster
from node.config.storage import S3, LocalCache

KEY = bytes(32)
CONFIG = Config(
    hostname="one",
    servers=(Server(type="imap", name="imap"),),
    s3=S3(bucket="mail", secret_key=Secret("hush")),
    cluster=Cluster(node_id="a", peers=("10.0.0.2",)),
)


def drifted(other: Config) -> list[str]:
    return differing(section_hashes(CONFIG, KEY), section_hashes(other, KEY))


def test_what_belongs_to_a_node_is_no_difference() -> None:
    own = replace(
        CONFIG,
        hostname="two",
        workers=8,
        cluster=Cluster(node_id="b", addr="10.0.0.2", peers=("10.0.0.1",)),
        local_cache=LocalCache(path="/elsewhere"),
    )
    assert drifted(own) == []


def test_differing_sections_are_named() -> None:
    assert drifted(replace(CONFIG, s3=S3(bucket="other", secret_key=Secret("hush")))) == ["s3"]
    assert drifted(replace(CONFIG, servers=(Server(type="imap", name="imap", max_connections=5),))) == [
        "servers"
    ]
    limits = AuthRateLimit(max_attempts_per_ip=3)
    assert drifted(replace(CONFIG, servers=(Server(type="imap", name="imap", auth_rate_limit=limits),))) == [
        "servers"
    ]


def test_secrets_count_and_are_hidden_behind_the_key() -> None:
    other = replace(CONFIG, s3=S3(bucket="mail", secret_key=Secret("changed")))
    assert drifted(other) == ["s3"]
    assert section_hashes(CONFIG, KEY)["s3"] != section_hashes(CONFIG, bytes([1] * 32))["s3"]
    assert fingerprint(KEY) != fingerprint(bytes([1] * 32))


def test_a_section_of_another_version_is_no_difference() -> None:
    assert differing({"new": b"1", "s3": b"2"}, {"s3": b"2", "old": b"3"}) == []


def test_the_hashes_of_a_configuration_fit_into_one_entry() -> None:
    from cluster.facts import MAX_VALUE_BYTES
    from node.clustering.wire import pack

    assert len(pack([fingerprint(KEY), section_hashes(CONFIG, KEY)])) < MAX_VALUE_BYTES
