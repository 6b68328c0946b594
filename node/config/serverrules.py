"""Rules about servers, each on its own and together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations

from node.sieve import allowed_extensions
from node.units import Address, format_duration

from .finding import Facts, Finding, Rule, conflict, inadvisable, missing
from .imapcaps import WORDS, is_capability
from .server import Server
from .servertypes import PROXY_TYPES
from .suggest import did_you_mean

EVERY_ADDRESS = {"", "0.0.0.0", "::"}  # noqa: S104
REQUIRED_KEYS = {"http_api": ("api_key", 16), "http_user_api": ("jwt_secret", 32)}  # least characters
METRICS_KEY_CHARS = 16
HEALTH_PATHS = {"/healthz", "/readyz"}
POP3_MIN_AUTOLOGOUT_S = 600.0  # RFC 1939 §3


def running(facts: Facts) -> Iterator[tuple[str, Server]]:
    for index, server in enumerate(facts.config.servers):
        if server.start:
            yield f"servers[{index}]", server


def any_server(facts: Facts) -> Iterator[Finding]:
    if not any(True for _ in running(facts)):
        yield Finding(
            "warning",
            "servers",
            "no server is started; only uploads and clean-up run",
            "add [servers.imap]",
            "missing",
        )


def same_address(facts: Facts) -> Iterator[Finding]:
    for (_, first), (path, second) in combinations(running(facts), 2):
        if _overlap(first.addr, second.addr):
            yield conflict(
                f"{path}.addr", f"{second.addr} is taken by {first.name}", "use another port or address"
            )


def _overlap(first: Address, second: Address) -> bool:
    if first.port != second.port or first.port == 0:  # 0: the kernel chooses
        return False
    return first.host == second.host or bool(EVERY_ADDRESS & {first.host, second.host})


def same_name(facts: Facts) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, server in enumerate(facts.config.servers):
        if server.name in seen:
            yield conflict(
                f"servers[{index}].name", f'another server is called "{server.name}"', "names are unique"
            )
        seen.add(server.name)


def certificates(facts: Facts) -> Iterator[Finding]:
    shared = facts.config.tls
    for path, server in running(facts):
        if bool(server.tls_cert_file) != bool(server.tls_key_file):
            half = "tls_key_file" if server.tls_cert_file else "tls_cert_file"
            yield missing(f"{path}.{half}", "the other half of the pair is set")
        if not server.tls or server.tls_cert_file or server.tls_key_file:
            continue
        if not shared.enabled:
            yield missing(
                f"{path}.tls_cert_file",
                "required by tls = true",
                "set tls_cert_file and tls_key_file, or [tls] enabled = true with cert_file and key_file",
            )
        elif shared.provider == "file" and not shared.cert_file:
            yield missing(f"{path}.tls_cert_file", "required by tls = true, as [tls] has no cert_file either")


def timeouts(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        if server.type.startswith("pop3") and server.command_timeout_s < POP3_MIN_AUTOLOGOUT_S:
            yield inadvisable(
                f"{path}.command_timeout",
                "RFC 1939 §3 asks for at least ten minutes; slow clients lose their session",
                'use "10m" or more',
            )
        if server.absolute_session_timeout_s < server.command_timeout_s:
            yield inadvisable(
                f"{path}.absolute_session_timeout",
                f"shorter than command_timeout ({format_duration(server.command_timeout_s)})",
            )


def proxies(facts: Facts) -> Iterator[Finding]:
    backends = [server for _, server in running(facts) if server.type not in PROXY_TYPES]
    for path, server in running(facts):
        if server.type not in PROXY_TYPES:
            continue
        if not server.remote_addrs and not server.prelookup.enabled:
            yield missing(f"{path}.remote_addrs", "a proxy needs backends", 'remote_addrs = ["backend1:143"]')
        slower = [b for b in backends if b.type == server.type.removesuffix("_proxy")]
        limit = max((b.command_timeout_s for b in slower), default=server.connect_timeout_s)
        if server.command_timeout_s <= limit:
            yield inadvisable(
                f"{path}.command_timeout",
                f"must exceed that of the backends ({format_duration(limit)}), or clients are cut off first",
            )


def passwords(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        for kind in ("master", "master_sasl"):
            username, password = getattr(server, f"{kind}_username"), getattr(server, f"{kind}_password")
            if bool(username) != bool(password):
                half = "password" if username else "username"
                yield missing(f"{path}.{kind}_{half}", f"{kind}_username and {kind}_password come as a pair")
        if (
            server.master_sasl_username
            and not server.master_sasl_allowed_networks
            and server.type not in PROXY_TYPES
        ):
            yield inadvisable(
                f"{path}.master_sasl_allowed_networks",
                "the master user may log in from anywhere",
                "list the proxies",
            )
        if server.insecure_auth and not _is_loopback(server.addr.host):
            yield inadvisable(f"{path}.insecure_auth", "passwords may cross the network unencrypted")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keys(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        wanted = REQUIRED_KEYS.get(server.type)
        if wanted is None:
            continue
        name, length = wanted
        secret = getattr(server, name)
        if not secret:
            yield missing(f"{path}.{name}", suggestion="generate one with: openssl rand -base64 32")
        elif len(secret.reveal()) < length:
            yield Finding(
                "error", f"{path}.{name}", f"shorter than {length} characters", "openssl rand -base64 32"
            )


def metrics(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        if server.type != "metrics":
            continue
        if not server.path.startswith("/") or server.path in HEALTH_PATHS:
            yield conflict(
                f"{path}.path", f'"{server.path}" cannot be that of the metrics', 'use one like "/metrics"'
            )
        if server.proxy_protocol.enabled:
            yield conflict(f"{path}.proxy_protocol", "metrics servers read no PROXY header", "remove it")
        if server.api_key and len(server.api_key.reveal()) < METRICS_KEY_CHARS:
            yield Finding(
                "error",
                f"{path}.api_key",
                f"shorter than {METRICS_KEY_CHARS} characters",
                "openssl rand -base64 32",
            )
        if not server.api_key and not server.allowed_hosts and not _is_loopback(server.addr.host):
            yield inadvisable(
                f"{path}.api_key",
                "whoever reaches this address can read the figures",
                "set api_key or allowed_hosts, or listen on 127.0.0.1",
            )


def trusted_proxies(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        trusted = server.proxy_protocol.trusted_proxies
        if trusted is None:
            trusted = facts.config.trusted_networks
        if server.proxy_protocol.enabled and not trusted:
            yield missing(
                f"{path}.proxy_protocol.trusted_proxies",
                "required by proxy_protocol: anybody could claim any address",
                "list the proxies here or in trusted_networks",
            )


def filters(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        for index, each in enumerate(server.client_filters):
            here = f"{path}.client_filters[{index}]"
            if not (each.client_name or each.client_version or each.ja4_fingerprints):
                yield Finding(
                    "warning", here, "matches no client", "add ja4_fingerprint or client_name", "unused"
                )
            if not each.disable_caps:
                yield Finding("warning", here, "takes nothing away", "add disable_caps", "unused")


def capabilities(facts: Facts) -> Iterator[Finding]:
    for path, server in running(facts):
        named = [(f"{path}.disabled_caps", word) for word in server.disabled_caps]
        for index, each in enumerate(server.client_filters):
            named += [(f"{path}.client_filters[{index}].disable_caps", word) for word in each.disable_caps]
        for where, word in named:
            if not is_capability(word):
                yield Finding("error", where, f'"{word}" is no IMAP capability', did_you_mean(word, WORDS))


def extensions(facts: Facts) -> Iterator[Finding]:
    allowed = allowed_extensions(facts.config.sieve)
    for path, server in running(facts):
        for word in server.supported_extensions:
            if word not in allowed:
                yield Finding(
                    "warning",
                    f"{path}.supported_extensions",
                    f'the section sieve does not allow "{word}", so it stays off',
                    "add it to enabled_extensions there",
                    "unused",
                )


RULES: tuple[Rule, ...] = (
    any_server,
    same_address,
    same_name,
    certificates,
    timeouts,
    proxies,
    passwords,
    keys,
    metrics,
    trusted_proxies,
    filters,
    capabilities,
    extensions,
)
