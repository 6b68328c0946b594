"""Rules about ``tls.letsencrypt``, and which certificates it asks for."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tls.domains import BadName, Fault, Group, fold, resolve
from tls.retry import PRODUCTION, STAGING
from tls.wanted import KeyType, Wanted

from .acme import AcmeAuthority, AcmeDns, LetsEncrypt
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


@dataclass(frozen=True, slots=True)
class Listed:
    """``section``: where its options are, with a dot; ``key``: of its directory."""

    section: str
    key: str
    authority: AcmeAuthority


def authorities_of(acme: LetsEncrypt) -> list[Listed]:
    """All that certificates may be ordered at, in the order in which they are asked."""
    first = AcmeAuthority(
        acme.directory, acme.email, acme.ca_file, acme.eab_kid, acme.eab_hmac_key, acme.preferred_chain
    )
    found = [Listed(f"{BASE}.", f"{BASE}.directory", first)]
    for word in acme.fallback_directories:
        plain = AcmeAuthority(word, acme.email, acme.ca_file)
        found.append(Listed(f"{BASE}.", f"{BASE}.fallback_directories", plain))
    for index, each in enumerate(acme.authority):
        section = f"{BASE}.authority[{index}]."
        own = replace(each, email=each.email or acme.email)
        found.append(Listed(section, f"{section}directory", own))
    return found


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
    yield from _accounts(acme)
    yield from _dns(acme.dns)
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
    for each in authorities_of(acme):
        word = each.authority.directory
        url = directory_of(word)
        cure = '"production", "staging" or an https:// URL'
        if not word:
            yield missing(each.key, "an authority needs a directory", cure)
        elif problem := _wrong_with(url):
            yield Finding("error", each.key, f'"{word}" {problem}', cure)
        elif url in seen:
            text = f"{word} is listed twice, and only the first counts"
            yield Finding("warning", each.key, text, "remove one", "unused")
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


def _accounts(acme: LetsEncrypt) -> Iterator[Finding]:
    """What accounts are registered with; that of fallback_directories is the first one's."""
    for index, each in enumerate(authorities_of(acme)):
        if index == 0 or each.section != f"{BASE}.":
            yield from _contact(each)
            yield from _binding(each)


def _contact(listed: Listed) -> Iterator[Finding]:
    email, path = listed.authority.email, f"{listed.section}email"
    if email and not _is_mail_address(email):
        yield Finding("error", path, f'"{email}" is no mail address', "as admin@example.com")


def _binding(listed: Listed) -> Iterator[Finding]:
    kid, key = listed.authority.eab_kid, listed.authority.eab_hmac_key
    if bool(kid) != bool(key):
        half = "eab_hmac_key" if kid else "eab_kid"
        cure = "copy both as the authority shows them"
        yield missing(f"{listed.section}{half}", "eab_kid and eab_hmac_key come as a pair", cure)
    elif key and not _is_binding_key(key.reveal()):
        path = f"{listed.section}eab_hmac_key"
        yield Finding("error", path, "is no base64url key", "copy it as the authority shows it")


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
