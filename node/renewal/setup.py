"""From the configuration to what certificate work is made of."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.config.acmerules import authorities_of, directory_of, wanted_of
from node.units import parse_address
from tls.ports import CaSettings
from tls.renewing.plan import Plan
from tls.retry import STAGING
from tls.vault.bucket import BucketConfig, S3Bucket
from tls.vault.mirror import Mirror
from tls.vault.sealing import SECRET_BYTES_MIN, Seals
from tls.vault.vault import SealedVault

if TYPE_CHECKING:
    from node.config import Config
    from node.config.acme import LetsEncrypt
    from tls.acme.dns01 import DnsProvider

AWS: Final = "s3.amazonaws.com"
DNS_PORT: Final = 53


class RenewalUnusable(Exception):
    """Certificates cannot be kept; the message names the option."""


def plan_of(config: Config) -> Plan:
    acme = config.tls.letsencrypt
    wanted, _ = wanted_of(acme)
    cas = _cas(acme)
    return Plan(
        wanted=wanted,
        cas=cas,
        use_dns=bool(acme.dns.provider),
        renew_before_s=acme.renew_before_s,
        sync_interval_s=acme.sync_interval_s,
        uses_renewal_info=acme.ari,
        digest=_digest(cas),
    )


def _cas(acme: LetsEncrypt) -> tuple[CaSettings, ...]:
    """Of a directory that is listed twice the first."""
    found: dict[str, CaSettings] = {}
    for each in (listed.authority for listed in authorities_of(acme)):
        settings = CaSettings(
            directory_of(each.directory),
            email=each.email,
            ca_file=each.ca_file,
            eab_kid=each.eab_kid,
            eab_hmac_key=each.eab_hmac_key.reveal(),
            preferred_chain=each.preferred_chain,
        )
        found.setdefault(settings.directory, settings)
    return tuple(found.values())


def staging_of(plan: Plan) -> CaSettings:
    """Where orders are tried out: Let's Encrypt's staging, or the CA itself when that is another one."""
    first = plan.cas[0]
    if "letsencrypt.org" not in first.directory:
        return first
    return CaSettings(STAGING, email=first.email)


def _digest(cas: tuple[CaSettings, ...]) -> str:
    """Of what a CA refuses an account for; secrets only as far as they differ."""
    text = "\n".join(f"{ca.directory} {ca.email} {ca.eab_kid} {ca.eab_hmac_key}" for ca in cas)
    return hmac.new(b"sora account", text.encode(), hashlib.sha256).hexdigest()[:8]


def vault_of(config: Config, plan: Plan) -> tuple[SealedVault, S3Bucket, Mirror | None]:
    """Raises RenewalUnusable."""
    acme = config.tls.letsencrypt
    bucket = S3Bucket(bucket_of(config))
    mirror = Mirror(Path(acme.fallback_dir)) if acme.enable_fallback else None
    directories = [ca.directory for ca in plan.cas]
    return SealedVault(bucket, seals_of(config), directories, mirror=mirror), bucket, mirror


def bucket_of(config: Config) -> BucketConfig:
    s3, mail = config.tls.letsencrypt.s3, config.s3
    has_own = bool(s3.access_key)
    is_aws = s3.endpoint == AWS
    return BucketConfig(
        bucket=s3.bucket,
        endpoint="" if is_aws else s3.endpoint,
        region=s3.region,
        access_key=s3.access_key if has_own else mail.access_key,
        secret_key=(s3.secret_key if has_own else mail.secret_key).reveal(),
        use_tls=not s3.disable_tls,
        path_style=not is_aws,
        server_side_encryption=s3.server_side_encryption,
        kms_key_id=s3.server_side_encryption_kms_key_id,
        debug=s3.debug,
    )


def seals_of(config: Config) -> Seals:
    """Sealed with the first secret that there is; all are tried to open. Raises RenewalUnusable."""
    acme, cluster = config.tls.letsencrypt, config.cluster
    bucket_secret = (acme.s3.secret_key or config.s3.secret_key).reveal().encode()
    candidates = [
        acme.encryption_key.reveal(),
        *(each.reveal() for each in acme.previous_encryption_keys),
        cluster.secret_key.reveal(),
        *(each.reveal() for each in cluster.secret_keys_old),
        bucket_secret,
    ]
    secrets = [each for each in dict.fromkeys(candidates) if each and len(each) >= SECRET_BYTES_MIN]
    if not secrets:
        raise RenewalUnusable(
            "tls.letsencrypt.encryption_key: required without cluster.secret_key; generate one with:"
            " openssl rand -base64 32"
        )
    return Seals(secrets)


def dns_of(config: Config) -> DnsProvider | None:
    """Raises RenewalUnusable."""
    dns = config.tls.letsencrypt.dns
    if not dns.provider:
        return None
    from tls.acme.propagation import CheckedDns, Propagation, PropagationSettings

    try:
        provider = _exec_hook(config) if dns.provider == "exec" else _updates(config)
    except ValueError as error:
        raise RenewalUnusable(f"tls.letsencrypt.dns: {error}") from error
    if not dns.wait_s:
        return provider
    return CheckedDns(provider, Propagation(PropagationSettings(timeout_s=dns.wait_s)))


def _exec_hook(config: Config) -> DnsProvider:
    from tls.acme.exechook import ExecHook

    dns = config.tls.letsencrypt.dns
    return ExecHook([dns.command], dns.timeout_s)


def _updates(config: Config) -> DnsProvider:
    from tls.acme.rfc2136 import Rfc2136, Rfc2136Settings

    dns = config.tls.letsencrypt.dns
    server = parse_address(dns.server, DNS_PORT)
    return Rfc2136(
        Rfc2136Settings(
            server=server.host,
            port=server.port,
            zone=dns.zone,
            key_name=dns.key_name,
            key_secret=dns.key_secret.reveal(),
            key_algorithm=dns.key_algorithm,
            timeout_s=dns.timeout_s,
        )
    )
