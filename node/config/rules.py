"""Rules about storage, the cluster and other sections taken together; ``serverrules`` has those of servers.

To add one: a generator of findings, and its name in RULES.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from node.units import parse_address

from .acmerules import letsencrypt
from .finding import Facts, Finding, Rule, conflict, inadvisable, missing
from .servertypes import STATELESS

S3_REQUIRED = ("endpoint", "access_key", "secret_key", "bucket")
EMPTIED_BY_THE_SYSTEM = ("/tmp/", "/var/tmp/", "/dev/shm/")  # noqa: S108
ACL_RIGHTS = "lrswipkxtea"
EVERYWHERE = "it must be an address of this node that the other nodes can reach"
NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_LABEL_BYTES = 255
MIN_SRS_SECRET_CHARS = 16
DOMAIN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.IGNORECASE)


def _keeps_mail(facts: Facts) -> bool:
    """Only a node whose servers are all proxies and the like does without database and objects."""
    running = [server for server in facts.config.servers if server.start]
    return not running or any(server.type not in STATELESS for server in running)


def account(facts: Facts) -> Iterator[Finding]:
    if facts.config.group and not facts.config.user:
        yield missing("user", "required by group")


def database(facts: Facts) -> Iterator[Finding]:
    if _keeps_mail(facts) and not facts.given("database"):
        yield missing("database", suggestion="add [database.write] with hosts, user, password and name")
    config = facts.config.database
    if config.read is not None and not facts.given("database.read.hosts"):
        yield missing("database.read.hosts", suggestion='hosts = ["replica1", "replica2"]')
    for name, endpoint in (("write", config.write), ("read", config.read)):
        if endpoint is not None and endpoint.min_connections > endpoint.max_connections:
            yield conflict(
                f"database.{name}.min_connections",
                f"greater than max_connections ({endpoint.max_connections})",
            )


def objects(facts: Facts) -> Iterator[Finding]:
    s3 = facts.config.s3
    if s3.driver == "s3" and _keeps_mail(facts):
        for key in S3_REQUIRED:
            if not getattr(s3, key):
                yield missing(f"s3.{key}")
    is_shared = facts.config.cluster.testing_allow_loopback
    if s3.driver == "file" and facts.config.cluster.enabled and not is_shared:
        yield conflict(
            "s3.driver", "the other nodes of the cluster cannot read a directory of this one", 'use "s3"'
        )
    if s3.encrypt and not s3.encryption_key:
        yield missing(
            "s3.encryption_key", "required by encrypt = true", "generate one with: openssl rand -base64 32"
        )


def staging(facts: Facts) -> Iterator[Finding]:
    uploader = facts.config.uploader
    if uploader.staging == "disk" and uploader.path.startswith(EMPTIED_BY_THE_SYSTEM):
        yield inadvisable("uploader.path", "mail waits here, but this directory is emptied by the system")


def sender_rewriting(facts: Facts) -> Iterator[Finding]:
    sieve = facts.config.sieve
    if sieve.srs_domain and not sieve.srs_secret:
        yield missing(
            "sieve.srs_secret", "required by srs_domain", "generate one with: openssl rand -base64 24"
        )
    if sieve.srs_secret and not sieve.srs_domain:
        yield missing("sieve.srs_domain", "required by srs_secret")
    for key, secret in (("srs_secret", sieve.srs_secret), ("srs_secret_old", sieve.srs_secret_old)):
        if secret and len(secret.reveal()) < MIN_SRS_SECRET_CHARS:
            yield conflict(f"sieve.{key}", f"shorter than {MIN_SRS_SECRET_CHARS} characters")
    if sieve.srs_domain and not DOMAIN.fullmatch(sieve.srs_domain):
        yield conflict("sieve.srs_domain", "not a domain")


def tls(facts: Facts) -> Iterator[Finding]:
    config = facts.config.tls
    if bool(config.cert_file) != bool(config.key_file):
        yield missing(
            "tls.key_file" if config.cert_file else "tls.cert_file", "the other half of the pair is set"
        )


def cluster(facts: Facts) -> Iterator[Finding]:
    config = facts.config.cluster
    if not config.enabled:
        return
    if not config.addr:
        yield missing("cluster.addr", suggestion=f'for example "10.10.10.40:7946"; {EVERYWHERE}')
    for key, addr in (("addr", config.addr), ("advertise_addr", config.advertise_addr)):
        if addr:
            yield from _cluster_address(f"cluster.{key}", addr, may_be_loopback=config.testing_allow_loopback)
    if config.rpc_addr:
        yield from _rpc(config.rpc_addr, has_key=bool(config.rpc_auth_key))
    if not config.secret_key:
        yield missing("cluster.secret_key", suggestion="generate one with: openssl rand -base64 32")
    if not config.peers:
        yield inadvisable("cluster.peers", "without peers this node starts a cluster of its own")
    if config.node_id and not NODE_ID.fullmatch(config.node_id):
        yield Finding(
            "error", "cluster.node_id", "not a name", "up to 128 letters, digits, dots, hyphens, underscores"
        )
    if len(config.label.encode()) > MAX_LABEL_BYTES:
        yield Finding("error", "cluster.label", f"longer than {MAX_LABEL_BYTES} bytes")


def _cluster_address(path: str, addr: str, *, may_be_loopback: bool) -> Iterator[Finding]:
    """One address both binds the listener and is told to the others, so a wildcard says nothing to them."""
    try:
        ip = ipaddress.ip_address(parse_address(addr, 0).host)
    except ValueError:
        yield Finding("error", path, f'"{addr}" is not an IP address', EVERYWHERE)
        return
    if ip.is_unspecified or ip.is_multicast:
        yield Finding("error", path, f"other nodes cannot connect to {ip}, which they are told", EVERYWHERE)
    elif ip.is_loopback and not may_be_loopback:
        yield Finding("error", path, f"other nodes cannot reach {ip}, which they are told", EVERYWHERE)
    elif ip.is_loopback:
        yield inadvisable(path, f"only nodes on this machine can reach {ip}: for tests only")


def _rpc(addr: str, *, has_key: bool) -> Iterator[Finding]:
    try:
        ip = ipaddress.ip_address(parse_address(addr, 0).host)
    except ValueError:
        yield Finding("error", "cluster.rpc_addr", f'"{addr}" is not an IP address', "127.0.0.1:7373")
        return
    if not ip.is_loopback and not has_key:
        hint = "set rpc_auth_key, or listen on 127.0.0.1"
        yield conflict("cluster.rpc_addr", "whoever reaches it may change the cluster's keys", hint)


def own_address_in_peers(facts: Facts) -> Iterator[Finding]:
    config = facts.config.cluster
    if config.enabled and config.peers != config.other_peers:
        yield Finding(
            "warning", "cluster.peers", "this node's own address is in the list and is left out", "", "unused"
        )


def _relay_url(url: str, *, has_token: bool) -> Iterator[Finding]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Finding("error", "relay.http_url", f'"{url}" is no URL', "https://relay.example.com/mail")
    elif parts.scheme == "http" and has_token and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield inadvisable("relay.http_url", "the token crosses the network in the clear", "https")


def relay(facts: Facts) -> Iterator[Finding]:
    config = facts.config.relay
    needed = {"smtp": "smtp_host", "http": "http_url"}.get(config.type)
    if needed and not getattr(config, needed):
        yield missing(f"relay.{needed}", f'required by type = "{config.type}"')
    if config.smtp_host and parse_address(config.smtp_host, 0).host[:1] in ("", "/"):
        text = f'"{config.smtp_host}" names no host'
        yield Finding("error", "relay.smtp_host", text, "smtp.example.com:587")
    if not config.type and (config.smtp_host or config.http_url):
        yield missing("relay.type", suggestion='"smtp" or "http"')
    if bool(config.smtp_tls_cert_file) != bool(config.smtp_tls_key_file):
        yield missing("relay.smtp_tls_key_file", "certificate and key come as a pair")
    if not config.smtp_tls and config.smtp_use_starttls:
        yield conflict(
            "relay.smtp_use_starttls", "smtp_tls = false asks for no encryption", "smtp_tls = true"
        )
    if config.type == "smtp" and config.smtp_username and not config.smtp_tls:
        text = "the password crosses the network in the clear"
        yield Finding("warning", "relay.smtp_tls", text, "smtp_tls = true", "inadvisable")
    if config.smtp_tls_cert_file and not config.smtp_tls:
        yield conflict("relay.smtp_tls_cert_file", "without smtp_tls nobody is shown it", "smtp_tls = true")
    if config.smtp_tls_ca_file and not (config.smtp_tls and config.smtp_tls_verify):
        hint = "smtp_tls = true and smtp_tls_verify = true"
        yield conflict("relay.smtp_tls_ca_file", "no certificate is checked against it", hint)
    if config.type == "http" and config.http_url:
        yield from _relay_url(config.http_url, has_token=bool(config.auth_token.reveal()))
    if facts.given("relay_queue.enabled") and facts.config.relay_queue.enabled and not facts.given("relay"):
        yield Finding("warning", "relay_queue", "without a relay the queue has nothing to do", "", "unused")


def sharing(facts: Facts) -> Iterator[Finding]:
    config = facts.config.shared_mailboxes
    unknown = sorted(set(config.default_rights) - set(ACL_RIGHTS))
    if unknown:
        yield Finding(
            "error",
            "shared_mailboxes.default_rights",
            f"no rights of RFC 4314 §2.1: {''.join(unknown)}",
            f"choose from {ACL_RIGHTS}",
        )
    if not config.namespace_prefix.rstrip("/") or not config.namespace_prefix.endswith("/"):
        yield Finding(
            "error", "shared_mailboxes.namespace_prefix", 'must end with "/"', 'for example "Shared/"'
        )


def training(facts: Facts) -> Iterator[Finding]:
    config = facts.config.spam_training
    url = urlsplit(config.endpoint)
    if config.enabled and not config.endpoint:
        yield missing("spam_training.endpoint", "required by enabled = true")
    elif config.endpoint and (url.scheme not in ("http", "https") or not url.hostname):
        yield Finding(
            "error", "spam_training.endpoint", "not a URL of the kind http or https", '"https://filter/learn"'
        )
    elif config.enabled and config.auth_token and url.scheme == "http" and not _is_local(url.hostname or ""):
        yield inadvisable("spam_training.endpoint", "mail and token cross the network in the clear")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


RULES: tuple[Rule, ...] = (
    account,
    database,
    objects,
    staging,
    tls,
    letsencrypt,
    cluster,
    own_address_in_peers,
    relay,
    sender_rewriting,
    sharing,
    training,
)
