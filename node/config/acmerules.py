"""Rules about ``tls.letsencrypt``, and which certificates it asks for."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from tls.domains import BadName, Fault, Group, fold, resolve
from tls.retry import PRODUCTION, STAGING
from tls.wanted import KeyType, Wanted

from .acme import AcmeDns, LetsEncrypt
from .finding import Facts, Finding, conflict, inadvisable, missing

BASE = "tls.letsencrypt"
NICKNAMES = {"production": PRODUCTION, "staging": STAGING}
EAB_KEY_BYTES_MIN = 16
DNS_REQUIRED = {"rfc2136": ("server", "key_name", "key_secret"), "exec": ("command",)}


def wanted_of(acme: LetsEncrypt) -> tuple[tuple[Wanted, ...], tuple[Fault, ...]]:
    """The certificates that the section asks for, and what is wrong with its names."""
    common = tuple(KeyType(each) for each in acme.key_types)
    groups = [Group(acme.domains, common)] if acme.domains else []
    for index, each in enumerate(acme.certificate):
        own = tuple(KeyType(word) for word in each.key_types) or common
        groups.append(Group(each.domains, own, f"certificate[{index}].domains"))
    return resolve(groups, profile=acme.profile, can_prove_wildcards=bool(acme.dns.provider))


def directory_of(word: str) -> str:
    """The URL that a word of the configuration stands for."""
    return NICKNAMES.get(word.lower(), word)


def letsencrypt(facts: Facts) -> Iterator[Finding]:
    tls = facts.config.tls
    if not (tls.enabled and tls.provider == "letsencrypt"):
        return
    acme = tls.letsencrypt
    required = (
        ("email", acme.email),
        ("domains", acme.domains or acme.certificate),
        ("s3.bucket", acme.s3.bucket),
    )
    for key, value in required:
        if not value:
            yield missing(f"{BASE}.{key}", 'required by provider = "letsencrypt"')
    yield from _names(acme)
    yield from _directories(acme)
    yield from _binding(acme)
    yield from _dns(acme.dns)
    if acme.email and not _is_mail_address(acme.email):
        yield Finding("error", f"{BASE}.email", f'"{acme.email}" is no mail address', "as admin@example.com")
    if not acme.key_types:
        yield missing(f"{BASE}.key_types", "no type of key", 'key_types = ["ecdsa-p256"]')
    yield from _sealing(facts)
    if acme.enable_fallback and not acme.fallback_dir:
        yield missing(f"{BASE}.fallback_dir", "required by enable_fallback = true")
    if bool(acme.s3.access_key) != bool(acme.s3.secret_key):
        half = "secret_key" if acme.s3.access_key else "access_key"
        yield missing(f"{BASE}.s3.{half}", "access_key and secret_key come as a pair")


def _sealing(facts: Facts) -> Iterator[Finding]:
    """What certificates are sealed with before they leave the node."""
    acme, path, cure = facts.config.tls.letsencrypt, f"{BASE}.encryption_key", "openssl rand -base64 32"
    if acme.encryption_key or facts.given("cluster.secret_key"):
        return
    if facts.config.s3.driver == "s3" or acme.s3.secret_key:
        yield inadvisable(
            path,
            "keys are sealed with one derived from the secret key of the bucket: who has that can read them,"
            " and when it changes, all certificates are ordered anew",
            f"set one: {cure}",
        )
    else:
        yield missing(path, "required without cluster.secret_key", f"generate one with: {cure}")


def _names(acme: LetsEncrypt) -> Iterator[Finding]:
    wanted, faults = wanted_of(acme)
    for fault in faults:
        path = f"{BASE}.{fault.where}"
        yield Finding("error" if fault.is_error else "warning", path, fault.message, fault.cure)
    for index, each in enumerate(acme.certificate):
        if not each.domains:
            yield missing(f"{BASE}.certificate[{index}].domains", "a certificate needs names")
    if not acme.default_domain:
        return
    try:
        default = fold(acme.default_domain)
    except BadName as error:
        yield Finding("error", f"{BASE}.default_domain", f'"{acme.default_domain}" {error}', error.cure)
        return
    names = {name for each in wanted for name in each.names}
    if default not in names and f"*.{default.partition('.')[2]}" not in names:
        yield conflict(f"{BASE}.default_domain", f"{default} is in no certificate", "choose one of domains")


def _directories(acme: LetsEncrypt) -> Iterator[Finding]:
    seen: set[str] = set()
    all_of_them = (
        ("directory", acme.directory),
        *(("fallback_directories", each) for each in acme.fallback_directories),
    )
    for key, word in all_of_them:
        url = directory_of(word)
        if problem := _wrong_with(url):
            yield Finding(
                "error", f"{BASE}.{key}", f'"{word}" {problem}', '"production", "staging" or an https:// URL'
            )
        elif url in seen:
            yield Finding("warning", f"{BASE}.{key}", f"{word} is listed twice", "remove one", "unused")
        seen.add(url)
    if directory_of(acme.directory) == STAGING:
        yield inadvisable(f"{BASE}.directory", "clients do not trust certificates of staging: for tests only")


def _wrong_with(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not host:
        return "is no directory"
    if parts.scheme == "http" and not _is_loopback(host):
        return "is not encrypted: anybody on the way could answer for the authority"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _binding(acme: LetsEncrypt) -> Iterator[Finding]:
    if bool(acme.eab_kid) != bool(acme.eab_hmac_key):
        half = "eab_hmac_key" if acme.eab_kid else "eab_kid"
        yield missing(f"{BASE}.{half}", "eab_kid and eab_hmac_key come as a pair")
    elif acme.eab_hmac_key and not _is_binding_key(acme.eab_hmac_key.reveal()):
        yield Finding(
            "error", f"{BASE}.eab_hmac_key", "is no base64url key", "copy it as the authority shows it"
        )


def _is_binding_key(text: str) -> bool:
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) >= EAB_KEY_BYTES_MIN


def _dns(dns: AcmeDns) -> Iterator[Finding]:
    for key in DNS_REQUIRED.get(dns.provider, ()):
        if not getattr(dns, key):
            yield missing(f"{BASE}.dns.{key}", f'required by provider = "{dns.provider}"')


def _is_mail_address(text: str) -> bool:
    local, _, domain = text.rpartition("@")
    try:
        return bool(local) and "," not in text and not any(c.isspace() for c in text) and bool(fold(domain))
    except BadName:
        return False
