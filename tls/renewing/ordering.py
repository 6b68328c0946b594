"""One order, from the lease to the certificate that all nodes serve.

Each step leaves the world so that whoever comes after can go on: the journal is written before the challenge
is answered, the certificate is in the bucket before anybody hears of it, and the journal goes last.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from storage.errors import Unavailable
from storage.leases import NOTES_KEPT, Attempts

from .. import budget, retry
from ..errors import CertificateUnusable
from ..policy import State, Verdict, judge
from ..ports import (
    BucketUnavailable,
    CaSettings,
    Failure,
    Generation,
    IssuingFailed,
)
from ..wanted import Wanted
from .hold import BareHold, Hold, holding
from .issuing import Issuing, Obtained
from .plan import Plan
from .shelf import Copy
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")

CLOCK_SKEW_MAX_S: Final = 60.0
PROBE_CHARS: Final = 43  # of a thumbprint, so that it is handled as a challenge is
UNUSABLE: Final = "there are certificates in the bucket, and none of them can be used here"
DATABASE_AWAY: Final = "the database is away, and nothing fences an order"

# What the CA says no to once, it says no to again: there is nothing to go on with.
_ENDS_ORDER: Final = frozenset({Failure.VALIDATION, Failure.REFUSED, Failure.REJECTED_NAME})


class Result(enum.Enum):
    ISSUED = "issued"
    UP_TO_DATE = "up to date"  # another node was faster
    DEFERRED = "deferred"  # another node is at it
    WAITING = "waiting"  # it may not be tried now
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``until``: not before."""

    result: Result
    text: str = ""
    until: datetime | None = None


class _Paused(Exception):
    """It may not be ordered now, by our own rules."""

    def __init__(self, text: str, until: datetime | None = None) -> None:
        super().__init__(text)
        self.until = until


class Ordering:
    def __init__(self, tools: Tools, plan: Plan) -> None:
        self._tools = tools
        self._issuing = Issuing(tools, plan)
        self._told: dict[str, str] = {}  # why something was not ordered, by id

    @property
    def plan(self) -> Plan:
        """May be replaced."""
        return self._issuing.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._issuing.plan = plan

    async def order(self, wanted: Wanted, *, forced: bool = False) -> Outcome:
        """Unless there is no need any more, or it may not be now. ``forced``: also when it is not due, and
        whatever failed before. Never raises for what may go wrong at the CA, the bucket or the database."""
        tools = self._tools
        try:
            async with holding(tools.leases, tools.company.name, tools.clock) as hold:
                if hold is None:
                    return await self._deferred(wanted)
                tools.figures.holds_lease = True
                return await self._guarded(wanted, hold, forced=forced)
        except Unavailable as error:
            return await self._without_database(wanted, str(error))
        finally:
            tools.figures.holds_lease = False

    async def dry_run(self, wanted: Wanted, ca: CaSettings) -> Outcome:
        """The whole way at a CA for tests; the certificate is thrown away and nothing is kept but the
        account. Raises Unavailable."""
        tools = self._tools
        async with holding(tools.leases, tools.company.name, tools.clock) as hold:
            if hold is None:
                return await self._deferred(wanted)
            try:
                await self._issuing.try_out(ca, wanted, hold)
            except (IssuingFailed, BucketUnavailable) as error:
                return Outcome(Result.FAILED, str(error))
        return Outcome(Result.ISSUED, f"{ca.directory} would have issued it")

    # --- who may ---

    async def _deferred(self, wanted: Wanted) -> Outcome:
        self._tools.figures.deferred += 1
        holder = await self._tools.leases.holder("certificates")
        log.info("certificate %s: deferred, %s is ordering", wanted.label, holder or "another node")
        return Outcome(Result.DEFERRED, f"{holder or 'another node'} is ordering")

    async def _without_database(self, wanted: Wanted, trouble: str) -> Outcome:
        """Only a leader of a majority, and only for a certificate that is about to expire."""
        company = self._tools.company
        bundle = self._tools.shelf.bundle(wanted.id)
        verdict = judge(bundle, self._tools.now(), self.plan.renew_before_s)

        def is_fit() -> bool:
            return company.rank() == 0 and company.has_majority()

        if verdict.state is not State.EMERGENCY or not is_fit():
            log.warning("certificate %s: not ordered, %s: %s", wanted.label, DATABASE_AWAY, trouble)
            return Outcome(Result.WAITING, f"{DATABASE_AWAY}: {trouble}")
        log.critical("certificate %s: ordered without a lease, as it expires soon", wanted.label)
        fence = max(self._tools.shelf.fence(wanted.id) + 1, int(self._tools.now().timestamp()))
        return await self._guarded(wanted, BareHold(fence, is_fit), forced=False)

    async def _guarded(self, wanted: Wanted, hold: Hold, *, forced: bool) -> Outcome:
        try:
            return await self._order(wanted, hold, forced=forced)
        except _Paused as pause:
            if self._told.get(wanted.id) != str(pause):  # once, not at every look
                self._told[wanted.id] = str(pause)
                log.warning("certificate %s: not ordered: %s", wanted.label, pause)
            # of what is not due there is no next attempt
            return Outcome(Result.WAITING, str(pause), None if forced else pause.until)

    # --- whether ---

    async def _order(self, wanted: Wanted, hold: Hold, *, forced: bool) -> Outcome:
        tools, plan = self._tools, self.plan
        current = await self._reread(wanted)
        verdict = await self.verdict(current)
        if not (verdict.state.needs_order or forced):
            return Outcome(Result.UP_TO_DATE)
        why = tools.vault.unusable.get(wanted.id, "")
        if current is None and why and not forced:
            raise _Paused(f"{UNUSABLE} ({why}); mend that, or order another: sora-node certs renew --force")
        await self._require_right_clock(hold)
        attempts = {ca.directory: await tools.record.load(ca.directory, wanted.id) for ca in plan.cas}
        step = retry.next_step(plan.cas, {} if forced else attempts, tools.now(), plan.digest)
        if isinstance(step, retry.Blocked):
            raise _Paused(f"until {step.until:%Y-%m-%d %H:%M} UTC: {step.why}", step.until)
        await self._require_budget(wanted, step.ca, verdict, current)
        log.info("certificate %s: ordering at %s, it is %s", wanted.label, step.ca.directory, verdict.text)
        for remark in await self.look_ahead(wanted.names):
            log.warning("certificate %s: %s", wanted.label, remark)
        before = attempts[step.ca.directory]
        try:
            is_pressing = _is_pressing(verdict, before)
            obtained = await self._issuing.obtain(
                step, wanted, hold, current, verdict, may_lack_names=is_pressing
            )
            await self._publish(obtained, step.ca, wanted, hold, verdict)
        except IssuingFailed as error:
            return await self._failed(error, step.ca, wanted, attempts, hold, verdict)
        await self._succeeded(wanted, step.ca, before, hold)
        if obtained.failure is None:
            return Outcome(Result.ISSUED)
        after = replace(retry.after_success(before, tools.now()), failures=before.failures)
        await self._note_failure(obtained.failure, step.ca, wanted, after, hold)
        missing = ", ".join(name for name in wanted.names if name not in obtained.names)
        return Outcome(Result.ISSUED, f"without {missing}: {obtained.failure}")

    async def _reread(self, wanted: Wanted) -> Copy | None:
        """After the lease was got: who had it before may have been at the same certificate."""
        try:
            return await self._tools.shelf.look(wanted)
        except BucketUnavailable as error:
            bundle = self._tools.shelf.bundle(wanted.id)
            verdict = judge(bundle, self._tools.now(), self.plan.renew_before_s)
            if verdict.state is not State.EMERGENCY:
                raise _Paused(f"there is nowhere to publish it: {error}") from error
            return self._tools.shelf.copies.get(wanted.id)

    async def verdict(self, current: Copy | None) -> Verdict:
        """Whether there is something to do, by the database's notes, too."""
        record, now, plan = self._tools.record, self._tools.now(), self.plan
        if current is None:
            return judge(None, now, plan.renew_before_s)
        generation = current.generation
        known = await record.load(generation.ca, generation.wanted_id)
        revoked = await record.count(
            generation.ca, budget.REVOKED, revoked_subject(generation), NOTES_KEPT.total_seconds()
        )
        picked = plan.suggested(known, generation.issued_at)
        return judge(
            current.bundle,
            now,
            plan.renew_before_s,
            picked,
            is_revoked=revoked > 0,
            is_incomplete=bool(plan.lacking(generation)),
        )

    async def _require_right_clock(self, hold: Hold) -> None:
        if isinstance(hold, BareHold):
            return
        theirs = await self._tools.leases.clock()
        skew_s = (self._tools.now() - theirs).total_seconds()
        if abs(skew_s) > CLOCK_SKEW_MAX_S:
            raise _Paused(
                f"this node's clock and the database's are {abs(skew_s):.0f} s apart; set both by NTP"
            )

    async def _require_budget(
        self, wanted: Wanted, ca: CaSettings, verdict: Verdict, current: Copy | None
    ) -> None:
        lifetime_s = 0.0
        if current is not None:
            lifetime_s = (current.bundle.not_after - current.bundle.not_before).total_seconds()
        counts = {
            limit: await self._tools.record.count(ca.directory, limit.what, limit.subject, limit.within_s)
            for limit in budget.limits(wanted, lifetime_s)
        }
        spent = budget.spent(
            counts, is_emergency=verdict.state.spares_nothing, is_renewal_by_ca=verdict.by_ca
        )
        if spent is not None:
            until = self._tools.now() + timedelta(seconds=min(spent.within_s, budget.HOUR_S) / 6)
            raise _Paused(budget.explained(spent, ca.directory), until)

    # --- how ---

    async def look_ahead(self, names: Sequence[str]) -> Sequence[str]:
        """What the CA may find wrong, without asking it. It explains, and forbids nothing: this machine may
        see what the CA does not, and the other way round."""
        tools = self._tools
        if self.plan.use_dns:
            return ()
        seed = f"{tools.company.name} {tools.chance()} {tools.now()}"
        probe = sha256(seed.encode()).hexdigest()[:PROBE_CHARS]
        answer = f"{probe}.{probe}"
        tools.answers.add(probe, answer)
        tools.company.tell_challenge(probe, answer)
        try:
            return await tools.preflight(names, probe, answer)
        finally:
            tools.answers.remove(probe)
            tools.company.withdraw_challenge(probe)

    # --- after ---

    async def _publish(
        self, obtained: Obtained, ca: CaSettings, wanted: Wanted, hold: Hold, verdict: Verdict
    ) -> None:
        tools, issued = self._tools, obtained.issued
        chain, key, now = issued.chain_pem, issued.key_pem, tools.now()
        generation = Generation(wanted.id, hold.fence, chain, key, ca.directory, now, obtained.names)
        await hold.check()
        try:
            await tools.vault.publish(generation)
        except CertificateUnusable as error:
            await self._issuing.drop_journal(wanted, hold)
            raise IssuingFailed(Failure.REFUSED, f"what was issued cannot be used: {error}") from error
        except BucketUnavailable as error:
            if verdict.state is not State.EMERGENCY:
                text = f"the certificate was issued and cannot be published: {error}"
                raise IssuingFailed(Failure.UNPUBLISHED, text) from error
            copy = await tools.vault.publish_locally(generation)
            kept = "in this node's mirror and uploaded later" if copy.is_kept else "in memory only"
            log.critical("certificate %s: not in the bucket, it is %s: %s", wanted.label, kept, error)
            tools.company.hand_on(copy.key, copy.sealed)
        tools.shelf.take(generation)
        tools.company.announce(wanted.id, generation.fence)

    async def _succeeded(self, wanted: Wanted, ca: CaSettings, before: Attempts, hold: Hold) -> None:
        tools = self._tools
        await tools.record.save(ca.directory, wanted.id, retry.after_success(before, tools.now()))
        await tools.record.note(ca.directory, budget.CERTIFICATE, wanted.id)
        for domain in budget.domains(wanted):
            await tools.record.note(ca.directory, budget.DOMAIN, domain)
        await self._issuing.drop_journal(
            wanted, hold
        )  # what was due is not any more; before, it is gone on with
        tools.figures.issued[ca.directory] += 1
        bundle = tools.shelf.bundle(wanted.id)
        until = f", valid until {bundle.not_after:%Y-%m-%d %H:%M} UTC" if bundle else ""
        log.info("certificate %s: issued by %s, number %d%s", wanted.label, ca.directory, hold.fence, until)
        await self._tidy(wanted)

    async def _tidy(self, wanted: Wanted) -> None:
        try:
            await self._tools.vault.prune(wanted.id)
        except BucketUnavailable as error:
            log.info("older certificates stay in the bucket for now: %s", error)

    async def _failed(
        self,
        error: IssuingFailed,
        ca: CaSettings,
        wanted: Wanted,
        attempts: Mapping[str, Attempts],
        hold: Hold,
        verdict: Verdict,
    ) -> Outcome:
        if error.failure is Failure.FENCED:
            self._tools.figures.failures[error.failure.value] += 1
            log.warning("certificate %s: given up, %s", wanted.label, error.text)
            return Outcome(Result.DEFERRED, error.text)
        after = await self._note_failure(error, ca, wanted, attempts[ca.directory], hold)
        until = self._next_attempt({**attempts, ca.directory: after}) if verdict.state.needs_order else None
        then = f"the next attempt is at {until:%Y-%m-%d %H:%M:%S} UTC" if until else "it is not due"
        log.error(
            "certificate %s: %s failed (%s): %s; %s",
            *(wanted.label, ca.directory, error.failure.value, error.text, then),
        )
        return Outcome(Result.FAILED, str(error), until)

    async def _note_failure(
        self, error: IssuingFailed, ca: CaSettings, wanted: Wanted, before: Attempts, hold: Hold
    ) -> Attempts:
        tools = self._tools
        tools.figures.failures[error.failure.value] += 1
        chance, left_s = tools.chance(), self._left_s(wanted)
        after = retry.after_failure(before, error, tools.now(), chance, self.plan.digest, left_s=left_s)
        await tools.record.save(ca.directory, wanted.id, after)
        if error.failure in _ENDS_ORDER:
            await self._issuing.drop_journal(wanted, hold)
        return after

    def _next_attempt(self, attempts: Mapping[str, Attempts]) -> datetime:
        now = self._tools.now()
        following = retry.next_step(self.plan.cas, attempts, now, self.plan.digest)
        return following.until if isinstance(following, retry.Blocked) else now

    def _left_s(self, wanted: Wanted) -> float:
        bundle = self._tools.shelf.bundle(wanted.id)
        return (bundle.not_after - self._tools.now()).total_seconds() if bundle else 0.0


def _is_pressing(verdict: Verdict, attempts: Attempts) -> bool:
    """Whether a certificate for most of the names is wanted rather than none."""
    is_tried = attempts.failures >= retry.FALL_BACK_AFTER - 1
    return verdict.state is State.EMERGENCY or (verdict.state is State.MISSING and is_tried)


def revoked_subject(generation: Generation) -> str:
    """Of the note that a certificate was revoked."""
    return f"{generation.wanted_id}/{generation.fence}"
