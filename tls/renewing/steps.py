"""What the CA's part of an order needs done on its way: answers published, the journal kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..acme.dns01 import DnsFailed
from ..ports import BucketUnavailable, CaSettings, Failure, IssuingFailed, Journal, Steps
from ..wanted import Wanted
from .hold import Hold
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")


@dataclass(frozen=True, slots=True)
class OrderSteps:
    """``keeps_journal`` false: nobody shall go on with it. ``is_emergency``: the bucket may be away."""

    tools: Tools
    ca: CaSettings
    wanted: Wanted
    hold: Hold
    keeps_journal: bool
    is_emergency: bool

    def steps(self) -> Steps:
        return Steps(
            publish_http=self._publish_http,
            withdraw_http=self._withdraw_http,
            publish_dns=self._publish_dns,
            withdraw_dns=self._withdraw_dns,
            journal=self._journal,
            check=self.hold.check,
            say=self._say,
        )

    async def _publish_http(self, name: str, token: str, key_authorisation: str) -> None:
        """In memory, by gossip and in the bucket: any of them is enough for any node to answer."""
        tools = self.tools
        tools.answers.add(token, key_authorisation)
        tools.company.tell_challenge(token, key_authorisation)
        try:
            await tools.vault.put_challenge(token, key_authorisation)
        except BucketUnavailable as error:
            self._say(f"the challenge for {name} is not in the bucket, only told by gossip: {error}")

    async def _withdraw_http(self, name: str, token: str) -> None:
        self.tools.answers.remove(token)
        self.tools.company.withdraw_challenge(token)
        try:
            await self.tools.vault.drop_challenge(token)
        except BucketUnavailable as error:
            self._say(f"the challenge for {name} stays in the bucket for now: {error}")

    async def _publish_dns(self, name: str, value: str) -> None:
        if self.tools.dns is None:
            raise IssuingFailed(Failure.UNPUBLISHED, "no way to change the DNS is configured")
        await self.tools.dns.publish(name, value)  # DnsFailed: who has asked knows for which names

    async def _withdraw_dns(self, name: str, value: str) -> None:
        if self.tools.dns is None:
            return
        try:
            await self.tools.dns.withdraw(name, value)
        except DnsFailed as error:
            self._say(f"the record {name} stays in the DNS: {error}")

    async def _journal(self, order_url: str, csr_pem: bytes, key_pem: bytes) -> None:
        if not self.keeps_journal:
            return
        begun = self.tools.now()
        journal = Journal(self.wanted, self.hold.fence, self.ca.directory, order_url, csr_pem, key_pem, begun)
        try:
            await self.tools.vault.put_journal(journal)
        except BucketUnavailable as error:
            if not self.is_emergency:
                raise IssuingFailed(Failure.UNPUBLISHED, f"the journal cannot be kept: {error}") from error
            self._say(f"ordered without a journal: {error}")

    def _say(self, text: str) -> None:
        log.info("certificate %s: %s", self.wanted.label, text)
