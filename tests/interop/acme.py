"""What tests of orders share: steps that publish to a small web server and remember what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.challenges import ChallengeAnswers
from tests.support.pebble import Pebble
from tls.acme.authority import AcmeAuthority
from tls.acme.dns01 import DnsProvider
from tls.ports import CaSettings, Journal, Steps
from tls.wanted import Wanted


def settings(ca: Pebble, **more: object) -> CaSettings:
    return CaSettings(**{"directory": ca.directory, "ca_file": ca.ca_file, **more})  # type: ignore[arg-type]


def authority(ca: Pebble, **more: object) -> AcmeAuthority:
    return AcmeAuthority(settings(ca, **more))


@dataclass
class Ordering:
    """Makes ``Steps``; ``done`` has every step in order, ``journals`` what was written."""

    wanted: Wanted
    answers: ChallengeAnswers | None = None
    dns: DnsProvider | None = None
    done: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)
    before: Callable[[str], None] = lambda step: None
    ca: str = ""

    def _step(self, step: str) -> None:
        self.before(step)
        self.done.append(step)

    def steps(self) -> Steps:
        return Steps(
            publish_http=self._publish_http,
            withdraw_http=self._withdraw_http,
            publish_dns=self._publish_dns,
            withdraw_dns=self._withdraw_dns,
            journal=self._journal,
            check=self._check,
            say=self.said.append,
        )

    async def _publish_http(self, name: str, token: str, key_authorisation: str) -> None:
        await asyncio.sleep(0)
        self._step(f"publish {name}")
        assert self.answers is not None
        self.answers.answers[token] = key_authorisation

    async def _withdraw_http(self, name: str, token: str) -> None:
        self._step(f"withdraw {name}")
        assert self.answers is not None
        del self.answers.answers[token]

    async def _publish_dns(self, name: str, value: str) -> None:
        self._step(f"publish {name}")
        assert self.dns is not None
        await self.dns.publish(name, value)

    async def _withdraw_dns(self, name: str, value: str) -> None:
        self._step(f"withdraw {name}")
        assert self.dns is not None
        await self.dns.withdraw(name, value)

    async def _journal(self, url: str, csr_pem: bytes, key_pem: bytes) -> None:
        self._step("journal")
        self.journals.append(Journal(self.wanted, 1, self.ca, url, csr_pem, key_pem, datetime.now(UTC)))

    async def _check(self) -> None:
        self._step("check")


def verify(chain_pem: bytes, root_pem: bytes) -> x509.Certificate:
    """Every certificate signed by the next, the last by the root. The leaf."""
    chain = x509.load_pem_x509_certificates(chain_pem)
    root = x509.load_pem_x509_certificate(root_pem)
    for certificate, issuer in zip(chain, [*chain[1:], root], strict=True):
        certificate.verify_directly_issued_by(issuer)
    return chain[0]


def key_size(leaf: x509.Certificate) -> tuple[str, int]:
    key = leaf.public_key()
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    return ("rsa" if isinstance(key, rsa.RSAPublicKey) else "ec", key.key_size)
