"""``Authority`` on an ACME server. The library behind it is imported at the first call, in its thread."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from storage.errors import Unavailable

from ..ports import (
    Account,
    BucketUnavailable,
    CaSettings,
    Failure,
    Issued,
    IssuingFailed,
    Journal,
    Renewal,
    Steps,
)
from ..wanted import Wanted
from .dns01 import DnsFailed
from .problems import clean
from .renewalinfo import certificate_id, parse_renewal
from .thread import Stopped, Talk, in_thread

CALLS_OF_A_TALK = 4  # directory, nonce, request, and one to spare

T = TypeVar("T")
log = logging.getLogger("sora.tls.acme")


class AcmeAuthority:
    """Every method is a talk of its own in a thread of its own, with its own connections.

    An order may take ``order_timeout_s``, anything else four times ``call_timeout_s``. After LOST_ACCOUNT
    register again with ``account(replace(known, uri=""))``, which keeps the key, or with ``account(None)``.
    """

    def __init__(self, settings: CaSettings) -> None:
        self.settings = settings

    async def account(self, known: Account | None) -> Account:
        def work(talk: Talk) -> Account:
            from . import accounts

            return accounts.ensure(self.settings, talk, known)

        return await self._talk("account", work)

    async def issue(
        self, account: Account, wanted: Wanted, steps: Steps, *, replaces: bytes = b"", use_dns: bool = False
    ) -> Issued:
        def work(talk: Talk) -> Issued:
            from . import accounts, client, orders

            with client.Client(self.settings, talk, accounts.load_key(account), account.uri) as ca:
                return orders.OrderRun(ca, talk, steps, wanted, use_dns=use_dns).issue(replaces)

        return await _guarded(wanted.id, self.settings.order_timeout_s, work)

    async def resume(
        self, account: Account, journal: Journal, steps: Steps, *, use_dns: bool = False
    ) -> Issued:
        def work(talk: Talk) -> Issued:
            from . import accounts, client, orders

            with client.Client(self.settings, talk, accounts.load_key(account), account.uri) as ca:
                return orders.OrderRun(ca, talk, steps, journal.wanted, use_dns=use_dns).resume(journal)

        return await _guarded(journal.wanted.id, self.settings.order_timeout_s, work)

    async def renewal(self, chain_pem: bytes) -> Renewal | None:
        """None as well for an expired certificate (RFC 9773 §4.3) and for a window without sense."""
        leaf = x509.load_pem_x509_certificate(chain_pem)
        name = certificate_id(leaf)
        if name is None or leaf.not_valid_after_utc <= datetime.now(UTC):
            return None

        def work(talk: Talk) -> Renewal | None:
            from . import client

            with client.Client(self.settings, talk) as ca, client.failures():
                if not ca.directory.renewal_info:
                    return None
                answer = ca.get(f"{ca.directory.renewal_info.rstrip('/')}/{name}")
                return parse_renewal(client.json_of(answer), client.retry_after_s(answer))

        return await self._talk("renewal", work)

    async def revoke(self, account: Account, chain_pem: bytes, reason: int) -> None:
        """Done as well when it was revoked already. ``reason``: RFC 5280 §5.3.1."""
        leaf = x509.load_pem_x509_certificate(chain_pem).public_bytes(serialization.Encoding.DER)
        encoded = base64.urlsafe_b64encode(leaf).rstrip(b"=").decode("ascii")

        def work(talk: Talk) -> None:
            from . import accounts, client

            key = accounts.load_key(account)
            with client.Client(self.settings, talk, key, account.uri) as ca, client.failures():
                if not ca.directory.revoke:
                    raise IssuingFailed(Failure.REFUSED, "the CA cannot revoke")
                try:
                    ca.post(ca.directory.revoke, {"certificate": encoded, "reason": reason})
                except client.Refused as refused:
                    if refused.problem.kind != "alreadyRevoked":
                        raise

        await self._talk("revoke", work)

    async def rollover(self, account: Account, *, key_json: str = "") -> Account:
        """Store what it returns at once: the old key is worth nothing any more."""

        def work(talk: Talk) -> Account:
            from . import accounts

            return accounts.roll_over(self.settings, talk, account, key_json)

        return await self._talk("rollover", work)

    async def deactivate(self, account: Account) -> None:
        """Close the account, for good."""

        def work(talk: Talk) -> None:
            from . import accounts

            accounts.deactivate(self.settings, talk, account)

        await self._talk("deactivate", work)

    async def profiles(self) -> Mapping[str, str]:
        def work(talk: Talk) -> Mapping[str, str]:
            from . import client

            with client.Client(self.settings, talk) as ca, client.failures():
                return ca.directory.profiles

        return await self._talk("profiles", work)

    async def _talk(self, name: str, work: Callable[[Talk], T]) -> T:
        return await _guarded(name, CALLS_OF_A_TALK * self.settings.call_timeout_s, work)


async def _guarded(name: str, limit_s: float, work: Callable[[Talk], T]) -> T:
    """A CA that sends what nobody foresaw costs this attempt, and the next one comes in its time."""
    try:
        return await in_thread(name, limit_s, work)
    except (IssuingFailed, Stopped, BucketUnavailable, DnsFailed, Unavailable):
        raise
    except Exception as error:  # the driver of the thread
        log.exception("a talk with a CA ended in a way that nobody foresaw")
        raise IssuingFailed(Failure.INTERNAL, clean(repr(error))) from error
