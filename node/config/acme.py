"""Certificates by ACME: the section ``tls.letsencrypt``."""

from __future__ import annotations

from dataclasses import dataclass

from node.units import Address
from tls.wanted import KeyType

from .kinds import (
    ADDRESS,
    BOOL,
    DURATION,
    KEY32,
    KEYS32,
    PATH,
    POSITIVE_DURATION,
    SECRET,
    TEXT,
    TEXTS,
    choice,
    choices,
    duration,
)
from .option import option, repeated, section
from .secret import Secret

KEY_TYPES = tuple(each.value for each in KeyType)


@dataclass(frozen=True, slots=True)
class AcmeStore:
    """The bucket that holds certificates, shared by all nodes."""

    bucket: str = option(TEXT, "", "An existing bucket.", shown="sora-tls-certificates")
    region: str = option(TEXT, "us-east-1", "Its region.")
    endpoint: str = option(TEXT, "s3.amazonaws.com", "As in s3.")
    disable_tls: bool = option(BOOL, False, "As in s3.")
    access_key: str = option(TEXT, "", "When empty, the credentials of s3 are used.", credential=True)
    secret_key: Secret[str] = option(SECRET, "", "When empty, the credentials of s3 are used.")
    server_side_encryption: str = option(
        choice("AES256", "aws:kms", "", aes256="AES256"),
        "AES256",
        'Asked of the service: "AES256", "aws:kms", or "" for services that reject the header.',
    )
    server_side_encryption_kms_key_id: str = option(TEXT, "", 'Key for "aws:kms".')
    debug: bool = option(BOOL, False, "Log every request, without credentials.")


@dataclass(frozen=True, slots=True)
class AcmeDns:
    """DNS-01 challenges: proof by a TXT record, which wildcards need."""

    provider: str = option(
        choice("", "rfc2136", "exec"),
        "",
        '"rfc2136" for a name server that takes updates, "exec" for a program of yours; when empty,'
        " challenges are answered on port 80 (HTTP-01).",
    )
    server: str = option(
        TEXT, "", "rfc2136: the primary name server, with or without port.", shown="10.0.0.53"
    )
    zone: str = option(
        TEXT, "", "rfc2136: the zone; the name server is asked when empty.", shown="example.com"
    )
    key_name: str = option(TEXT, "", "rfc2136: name of the TSIG key.", shown="sora-acme")
    key_algorithm: str = option(TEXT, "hmac-sha256", "rfc2136: its algorithm.")
    key_secret: Secret[str] = option(SECRET, "", "rfc2136: the key, base64.")
    command: str = option(
        PATH,
        "",
        "exec: a program, called as PROGRAM publish|withdraw NAME VALUE.",
        shown="/etc/sora/acme-dns",
    )
    wait_s: float = option(
        DURATION, "0s", "Time for secondaries to take a record over, before the authority looks.", key="wait"
    )
    timeout_s: float = option(POSITIVE_DURATION, "30s", "For one update.", key="timeout")


@dataclass(frozen=True, slots=True)
class AcmeCertificate:
    """One more certificate, with names of its own."""

    domains: tuple[str, ...] = option(TEXTS, [], "Its names.", shown=["mail.example.org"])
    key_types: tuple[str, ...] = option(
        choices(*KEY_TYPES), [], "Types of key; those of tls.letsencrypt when empty."
    )


@dataclass(frozen=True, slots=True)
class AcmeAuthority:
    """One more authority, with what its account needs."""

    directory: str = option(TEXT, "", "As in tls.letsencrypt.", shown="https://ca.example.net/acme/directory")
    email: str = option(TEXT, "", "Contact; that of tls.letsencrypt when empty.")
    ca_file: str = option(PATH, "", "Roots to trust for the directory's own HTTPS; the system's when empty.")
    eab_kid: str = option(
        TEXT, "", "Key identifier of the external account binding, where the directory asks."
    )
    eab_hmac_key: Secret[str] = option(SECRET, "", "Its key, base64url.")
    preferred_chain: str = option(TEXT, "", "As in tls.letsencrypt.")


@dataclass(frozen=True, slots=True)
class LetsEncrypt:
    """Certificates by ACME, answered on port 80 of every node (HTTP-01) or in the DNS (DNS-01)."""

    email: str = option(TEXT, "", "Contact for the certificate authority.", shown="admin@example.com")
    domains: tuple[str, ...] = option(
        TEXTS,
        [],
        "Names that get a certificate, one for all of them.",
        shown=["mail.example.com", "imap.example.com"],
    )
    default_domain: str = option(
        TEXT, "", "For clients that send no server name; the first domain when empty."
    )
    directory: str = option(
        TEXT,
        "production",
        '"production" or "staging" of Let\'s Encrypt, or the directory URL of another authority.',
        shown="https://ca.example.com/acme/directory",
    )
    ca_file: str = option(PATH, "", "Roots to trust for the directory's own HTTPS; the system's when empty.")
    fallback_directories: tuple[str, ...] = option(
        TEXTS,
        [],
        "Further authorities, asked in order when the one before fails again and again, with the same email"
        " and ca_file; those that want more are an [[tls.letsencrypt.authority]] each.",
    )
    eab_kid: str = option(
        TEXT, "", "Key identifier of the external account binding, where the directory asks."
    )
    eab_hmac_key: Secret[str] = option(SECRET, "", "Its key, base64url.")
    key_types: tuple[str, ...] = option(
        choices(*KEY_TYPES),
        ["ecdsa-p256"],
        "Types of key, a certificate for each: ecdsa-p256, ecdsa-p384, rsa-2048, rsa-4096. With one of ECDSA"
        " and one of RSA, clients without ECDSA are served too.",
        aliases=("key_type",),
    )
    profile: str = option(TEXT, "", "Profile of the certificates; the authority's default when empty.")
    preferred_chain: str = option(
        TEXT, "", "Common name of the root to chain to, when the authority offers several."
    )
    ari: bool = option(BOOL, True, "Renew when the authority suggests (RFC 9773).")
    storage_provider: str = option(choice("s3"), "s3", "Certificates are kept in S3.")
    encryption_key: Secret[bytes] = option(
        KEY32,
        "",
        "Key that seals what is kept, 32 bytes as base64, the same on all nodes; derived from"
        " cluster.secret_key when empty.",
    )
    previous_encryption_keys: tuple[Secret[bytes], ...] = option(
        KEYS32, [], "Earlier keys; what they sealed is still read."
    )
    renew_before_s: float = option(
        duration(low=3600),
        "720h",
        "Renew this long before expiry, or when a third of the lifetime is left if that is later.",
    )
    sync_interval_s: float = option(
        DURATION, "5m", "How often renewed certificates are pulled from S3 into the local mirror; 0 never."
    )
    enable_fallback: bool = option(BOOL, True, "Keep a local mirror for the time S3 cannot be reached.")
    fallback_dir: str = option(PATH, "/var/lib/sora/certs", "Its directory.")
    challenge_listen: Address = option(
        ADDRESS, ":80", "Where HTTP-01 challenges are answered; the authority asks on port 80."
    )
    redirect_to_https: bool = option(
        BOOL, False, "Send who asks that port for anything else to https; 404 when false."
    )
    stateless_challenge: bool = option(
        BOOL, True, "Answer for our account also when neither gossip nor S3 brought the challenge."
    )
    dns: AcmeDns = section(AcmeDns, "DNS-01 challenges.")
    authority: tuple[AcmeAuthority, ...] = repeated(
        AcmeAuthority, "Further authorities, asked in order after fallback_directories."
    )
    certificate: tuple[AcmeCertificate, ...] = repeated(AcmeCertificate, "Further certificates.")
    s3: AcmeStore = section(AcmeStore, "The bucket of certificates.")
