"""What an operator does by hand, under the same lease as orders."""

from __future__ import annotations

import logging
from datetime import datetime

from .. import budget, retry
from ..bundle import verify_bundle
from ..errors import CertificateUnusable
from ..ports import Failure, Generation, IssuingFailed
from ..wanted import Wanted
from .hold import LeaseHold, holding
from .ordering import Outcome, Result, revoked_subject
from .rounds import Rounds
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")

BUSY = Outcome(Result.DEFERRED, "another node is ordering; try again in a minute")


class Operations:
    """All raise Unavailable and BucketUnavailable, and IssuingFailed where a CA is asked."""

    def __init__(self, tools: Tools, rounds: Rounds) -> None:
        self._tools = tools
        self._rounds = rounds

    async def revoke(self, wanted: Wanted, reason: int) -> Outcome:
        """The newest; and a new one is ordered, which what is shown needs at once: now, and again until
        there is one."""
        tools = self._tools
        copy = await tools.shelf.look(wanted)
        if copy is None:
            return Outcome(Result.WAITING, "there is no certificate")
        ca = self._rounds.plan.ca(copy.generation.ca)
        account = await tools.vault.account(copy.generation.ca)
        if ca is None or account is None:
            text = f"{copy.generation.ca} issued it, and is not configured any more"
            raise IssuingFailed(Failure.LOST_ACCOUNT, text)
        await tools.authority(ca).revoke(account, copy.generation.chain_pem, reason)
        await tools.record.note(ca.directory, budget.REVOKED, revoked_subject(copy.generation))
        log.warning("certificate %s: number %d was revoked", wanted.label, copy.generation.fence)
        return await self._rounds.order(wanted, forced=True)

    async def take_over(self, wanted: Wanted, chain_pem: bytes, key_pem: bytes) -> Outcome:
        """A pair from elsewhere becomes the newest generation. Raises CertificateUnusable."""
        tools, ca = self._tools, self._rounds.plan.cas[0].directory
        bundle = verify_bundle(chain_pem, key_pem, wanted.names, "the imported certificate")
        refusal = bundle.refusal(tools.now())
        if refusal:
            raise CertificateUnusable(f"the imported certificate: {refusal}")
        async with holding(tools.leases, tools.company.name, tools.clock) as hold:
            if hold is None:
                return BUSY
            now = tools.now()
            generation = Generation(wanted.id, hold.fence, chain_pem, key_pem, ca, now, wanted.names)
            await self._publish(generation, hold, now)
        log.info("certificate %s: imported, number %d", wanted.label, generation.fence)
        return Outcome(Result.ISSUED)

    async def _publish(self, generation: Generation, hold: LeaseHold, now: datetime) -> None:
        tools = self._tools
        await hold.check()
        await tools.vault.publish(generation)
        known = await tools.record.load(generation.ca, generation.wanted_id)
        await tools.record.save(generation.ca, generation.wanted_id, retry.after_success(known, now))
        tools.shelf.take(generation)
        tools.company.announce(generation.wanted_id, generation.fence)
        self._rounds.wake()

    async def roll_accounts(self) -> dict[str, str]:
        """A new key, the same for all, for the account at each CA that there is one at; what came of it, by
        directory."""
        tools = self._tools
        outcomes: dict[str, str] = {}
        key_json = ""
        async with holding(tools.leases, tools.company.name, tools.clock) as hold:
            if hold is None:
                raise IssuingFailed(Failure.FENCED, BUSY.text)
            for ca in self._rounds.plan.cas:
                account = await tools.vault.account(ca.directory)
                if account is None:
                    outcomes[ca.directory] = "no account"
                    continue
                await hold.check()
                fresh = await tools.authority(ca).rollover(account, key_json=key_json)
                key_json = fresh.key_json
                await tools.vault.put_account(fresh, hold.fence)
                tools.answers.know_account(fresh.key_json)
                outcomes[ca.directory] = "done"
                log.warning("the account at %s has a new key", ca.directory)
        return outcomes
