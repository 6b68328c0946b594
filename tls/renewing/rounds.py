"""The scheduler: every node looks at all certificates every ten minutes and at events, and orders what is due
when it is its turn.

The leader begins at once. A node of rank n begins when something has been due for n minutes and nobody has
done it: it needs no verdict about who is dead, as the lease lets only one through.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from storage.leases import Attempts

from ..policy import Verdict, ask_again_s, judge, look_after_s, pick
from ..ports import BucketUnavailable, Failure, IssuingFailed
from ..retry import LEEWAY
from ..wanted import Wanted
from .forgetting import Forgetting
from .ordering import Ordering, Outcome, Result
from .plan import Plan
from .shelf import Copy
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")

RANK_DELAY_S: Final = 60.0
DEFERRED_LOOK_S: Final = 15.0  # while another node orders
BUCKET_RETRY_S: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
SWEEP_EVERY_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """One certificate, as it was found last."""

    wanted: Wanted
    verdict: Verdict
    note: str = ""  # why it is not ordered though it is due
    until: datetime | None = None


class Rounds:
    def __init__(self, tools: Tools, plan: Plan) -> None:
        self.plan = plan
        self.ordering = Ordering(tools, plan)
        self.standings: dict[str, Standing] = {}
        self._tools = tools
        self._woken = asyncio.Event()
        self._due_since: dict[str, float] = {}
        self._told_clamped: set[str] = set()
        self._bucket_failures = 0
        self._swept_at = tools.clock()
        self._turn = asyncio.Lock()
        self._forgetting = Forgetting(tools)

    # --- events ---

    def wake(self) -> None:
        """Something has changed: look at everything now."""
        self._woken.set()

    def replan(self, plan: Plan) -> None:
        """The configuration was read again."""
        self.plan = self.ordering.plan = plan
        kept = {each.id for each in plan.wanted}
        self.standings = {key: standing for key, standing in self.standings.items() if key in kept}
        self._tools.shelf.retain(plan.wanted)
        self.wake()

    async def heard(self, wanted_id: str, fence: int) -> None:
        """Another node has published: show it now."""
        self._tools.company.withdraw_copies(wanted_id, fence)
        wanted = self.plan.find(wanted_id)
        if wanted is None or fence <= self._tools.shelf.fence(wanted_id):
            return
        try:
            await self._tools.shelf.look(wanted)
        except BucketUnavailable:
            return  # told where it was found out; the next sync reads it
        self.wake()

    async def handed(self, key: str, sealed: bytes) -> None:
        """Another node has ordered while the bucket was away: keep its certificate and show it now."""
        for wanted in self.plan.wanted:
            generation = await self._tools.vault.keep(wanted.id, key, sealed)
            if generation is not None and generation.fence > self._tools.shelf.fence(wanted.id):
                log.info("certificate %s: number %d came from another node", wanted.label, generation.fence)
                self._tools.shelf.take(generation)
                self.wake()

    async def order(self, wanted: Wanted, *, forced: bool) -> Outcome:
        """At the operator's word, whatever this node's rank."""
        async with self._turn:
            return await self.ordering.order(wanted, forced=forced)

    # --- the loop ---

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._woken.clear()
                pause_s = await self.round()
                woken = asyncio.create_task(self._woken.wait())
                await asyncio.wait({stopping, woken}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        finally:
            stopping.cancel()

    async def round(self) -> float:
        """Everything once; seconds until the next time."""
        tools = self._tools
        is_readable = await tools.shelf.sync(self.plan.wanted)
        self._bucket_failures = 0 if is_readable else self._bucket_failures + 1
        await self._learn_account(is_readable=is_readable)
        waits: list[float] = []
        for wanted in self.plan.wanted:
            try:
                waits += await self._attend(wanted)
            except Exception as error:  # a worker loop: the others must get their turn
                log.exception("certificate %s: what nobody foresaw", wanted.label)
                tools.figures.failures[Failure.INTERNAL.value] += 1
                verdict = judge(tools.shelf.bundle(wanted.id), tools.now(), self.plan.renew_before_s)
                self.standings[wanted.id] = Standing(wanted, verdict, f"internal: {error!r}")
        leads = is_readable and tools.company.rank() == 0
        if leads:
            await self._keep_house()
        if tools.clock() - self._swept_at >= SWEEP_EVERY_S:
            self._swept_at = tools.clock()
            await self._sweep(leads=leads)
        verdicts = [each.verdict for each in self.standings.values()]
        usual = look_after_s(verdicts, tools.now(), tools.chance())
        if self._bucket_failures:
            waits.append(BUCKET_RETRY_S[min(self._bucket_failures, len(BUCKET_RETRY_S)) - 1])
        elif self.plan.sync_interval_s:
            waits.append(self.plan.sync_interval_s)
        return max(1.0, min([usual, *waits]))

    async def _attend(self, wanted: Wanted) -> list[float]:
        """Seconds until there is more to do for this one."""
        tools = self._tools
        verdict = await self.judge(wanted)
        if not verdict.state.needs_order:
            self._due_since.pop(wanted.id, None)
            self.standings[wanted.id] = Standing(wanted, verdict)
            return []
        tools.answers.expect()
        since = self._due_since.setdefault(wanted.id, tools.clock())
        delay_s = tools.company.rank() * RANK_DELAY_S - (tools.clock() - since)
        if delay_s > 0:
            note = "due; another node begins"
            self.standings[wanted.id] = Standing(wanted, verdict, note)
            return [delay_s]
        async with self._turn:
            outcome = await self.ordering.order(wanted)
        self.standings[wanted.id] = Standing(wanted, await self.judge(wanted), outcome.text, outcome.until)
        return self._wait_after(wanted, outcome)

    def _wait_after(self, wanted: Wanted, outcome: Outcome) -> list[float]:
        if outcome.result in (Result.ISSUED, Result.UP_TO_DATE):
            self._due_since.pop(wanted.id, None)
            return []
        if outcome.result is Result.DEFERRED:
            return [DEFERRED_LOOK_S]
        if outcome.until is None:
            return [RANK_DELAY_S]
        return [max(1.0, (outcome.until - self._tools.now()).total_seconds())]

    # --- when ---

    async def judge(self, wanted: Wanted) -> Verdict:
        """With what the CA suggests; the node of rank 0 asks it when that is old."""
        tools, plan = self._tools, self.plan
        copy = tools.shelf.copies.get(wanted.id)
        if copy is not None and plan.uses_renewal_info and tools.company.rank() == 0:
            known = await tools.record.load(copy.generation.ca, wanted.id)
            if _is_old(known, copy.generation.issued_at, tools.now()):
                await self._ask_window(wanted, copy)
        verdict = await self.ordering.verdict(copy)
        if verdict.is_clamped and wanted.id not in self._told_clamped:
            self._told_clamped.add(wanted.id)
            log.warning(
                "certificate %s: renew_before is more than a third of its lifetime; it is renewed at %s",
                *(wanted.label, verdict.renew_at),
            )
        return verdict

    async def _ask_window(self, wanted: Wanted, copy: Copy) -> None:
        """Pick a moment, which is kept for all nodes."""
        tools, generation = self._tools, copy.generation
        known = await tools.record.load(generation.ca, wanted.id)
        ca, picked = self.plan.ca(generation.ca), self.plan.suggested(known, generation.issued_at)
        if ca is None:
            return
        told_s = None
        try:
            window = await tools.authority(ca).renewal(generation.chain_pem)
        except IssuingFailed as error:
            log.info("certificate %s: no renewal information: %s", wanted.label, error)
            told_s = error.retry_after_s
        else:
            if window is None:
                picked = None
            else:
                told_s, before = window.ask_again_s, picked
                picked = pick(window, before, tools.chance())
                if picked != before:
                    why = f" ({window.explanation})" if window.explanation else ""
                    log.info("certificate %s: the CA suggests to renew at %s%s", wanted.label, picked, why)
        now = tools.now()
        again = now + timedelta(seconds=ask_again_s(told_s))
        await tools.record.save(
            generation.ca, wanted.id, replace(known, renew_at=picked, renew_checked_at=now, retry_after=again)
        )

    # --- house ---

    async def _learn_account(self, *, is_readable: bool) -> None:
        """Again and again: its key changes. All accounts have the same one; the first that is found tells it,
        in the mirror while the bucket cannot be read."""
        vault = self._tools.vault
        read = vault.account if is_readable else vault.account_local
        try:
            for ca in self.plan.cas:
                account = await read(ca.directory)
                if account is not None:
                    self._tools.answers.know_account(account.key_json)
                    return
        except BucketUnavailable:
            return  # told by the next sync

    async def _keep_house(self) -> None:
        tools = self._tools
        try:
            for wanted in self.plan.wanted:
                if await tools.vault.upload_local(wanted.id):
                    log.info("certificate %s: uploaded from this node's mirror", wanted.label)
                    tools.company.announce(wanted.id, tools.shelf.fence(wanted.id))
                    tools.company.withdraw_copies(wanted.id, tools.shelf.fence(wanted.id))
        except BucketUnavailable as error:
            log.warning("the bucket of certificates: %s", error)

    async def _sweep(self, *, leads: bool) -> None:
        try:
            if leads:
                await self._tools.vault.sweep()
        except BucketUnavailable as error:
            log.warning("the bucket of certificates: %s", error)
        async with self._turn:  # a lease that is taken anew ends an order of this node
            await self._forgetting.run(self.plan, leads=leads)


def _is_old(known: Attempts, issued_at: datetime, now: datetime) -> bool:
    """Whether the CA is to be asked about renewal again. What was noted before the certificate was issued is
    about another; what was noted in the future, by a clock that was wrong, would be good for ever."""
    if known.renew_checked_at is None or known.retry_after is None:
        return True
    return known.retry_after <= now or not issued_at <= known.renew_checked_at <= now + LEEWAY
