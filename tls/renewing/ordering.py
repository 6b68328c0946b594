"""One order, from the lease to the certificate that all nodes serve.

Each step leaves the world so that whoever comes after can go on: the journal is written before the challenge
is answered, the certificate is in the bucket before anybody hears of it, and the journal goes last.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
    Account,
    Authority,
    BucketUnavailable,
    CaSettings,
    Failure,
    Generation,
    Issued,
    IssuingFailed,
    Journal,
    Steps,
)
from ..wanted import Wanted
from .hold import BareHold, Hold, holding
from .plan import Plan
from .shelf import Copy
from .steps import OrderSteps
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")

CLOCK_SKEW_MAX_S: Final = 60.0
JOURNAL_MAX_AGE: Final = timedelta(days=1)
JOURNAL_MAX_AGE_MISSING: Final = timedelta(hours=1)  # of one for a certificate that is not there at all
JOURNAL_MIN_AGE: Final = timedelta(minutes=10)  # until who comes after a dead node has had its chance
PROBE_CHARS: Final = 43  # of a thumbprint, so that it is handled as a challenge is
UNUSABLE: Final = "there are certificates in the bucket, and none of them can be used here"
DATABASE_AWAY: Final = "the database is away, and nothing fences an order"

# What the CA says no to once, it says no to again: there is nothing to go on with.
_ENDS_ORDER: Final = frozenset({Failure.VALIDATION, Failure.REFUSED, Failure.REJECTED_NAME})
# Of an order of before: BAD_ACCOUNT, for it may be that of an account that was lost.
_LEADS_NOWHERE: Final = frozenset({Failure.VALIDATION, Failure.REFUSED, Failure.BAD_ACCOUNT})
# What fails at one CA fails at another.
_ABOUT_US: Final = frozenset({Failure.VALIDATION, Failure.REJECTED_NAME, Failure.UNPUBLISHED, Failure.FENCED})


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
        self.plan = plan  # may be replaced
        self._tools = tools
        self._told: dict[str, str] = {}  # why something was not ordered, by id

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
                await self._try_out(ca, wanted, hold)
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
            return Outcome(Result.WAITING, str(pause), pause.until)

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
        try:
            if step.trial is not None:
                await self._try_out_first(step.trial, wanted, hold)
            issued = await self._issue(step.ca, wanted, hold, current, verdict)
            await self._publish(issued, step.ca, wanted, hold, verdict)
        except IssuingFailed as error:
            return await self._failed(error, step.ca, wanted, attempts, hold, verdict)
        await self._succeeded(wanted, step.ca, attempts[step.ca.directory], hold)
        return Outcome(Result.ISSUED)

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
        return judge(current.bundle, now, plan.renew_before_s, picked, is_revoked=revoked > 0)

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

    async def _try_out_first(self, ca: CaSettings, wanted: Wanted, hold: Hold) -> None:
        """Raises IssuingFailed for what would fail at the real CA, too; troubles of this one forbid
        nothing."""
        try:
            await self._try_out(ca, wanted, hold)
        except IssuingFailed as error:
            if error.failure in _ABOUT_US:
                raise
            log.warning("certificate %s: cannot be tried out: %s", wanted.label, error)

    async def _try_out(self, ca: CaSettings, wanted: Wanted, hold: Hold) -> None:
        log.info("certificate %s: tried out at %s first", wanted.label, ca.directory)
        authority = self._tools.authority(ca)
        steps = self._steps(ca, wanted, hold, keeps_journal=False)

        async def issue(account: Account) -> Issued:
            plain = replace(wanted, profile="")
            return await authority.issue(account, plain, steps, use_dns=self.plan.use_dns)

        await self._with_account(authority, hold, issue)
        log.info("certificate %s: %s would issue it", wanted.label, ca.directory)

    async def _issue(
        self, ca: CaSettings, wanted: Wanted, hold: Hold, current: Copy | None, verdict: Verdict
    ) -> Issued:
        authority = self._tools.authority(ca)
        replaces = b""
        if current is not None and current.generation.ca == ca.directory:
            replaces = current.generation.chain_pem
        asked = await self._fitting(authority, wanted, verdict)

        async def issue(account: Account) -> Issued:
            return await self._resume_or_issue(authority, account, asked, hold, replaces, verdict)

        return await self._with_account(authority, hold, issue)

    async def _fitting(self, authority: Authority, wanted: Wanted, verdict: Verdict) -> Wanted:
        """Without a profile that the CA does not have, where a certificate of another is better than none: at
        those that are asked in place of the first one, and when what there is expires. Else the CA's list is
        what the operator is told."""
        is_first = authority.settings.directory == self.plan.cas[0].directory
        if not wanted.profile or (is_first and not verdict.state.spares_nothing):
            return wanted
        if wanted.profile in await authority.profiles():
            return wanted
        directory = authority.settings.directory
        log.warning(
            "certificate %s: %s has no profile %s: its usual one", wanted.label, directory, wanted.profile
        )
        return replace(wanted, profile="")

    async def _with_account(
        self, authority: Authority, hold: Hold, use: Callable[[Account], Awaitable[Issued]]
    ) -> Issued:
        """With another one when the CA does not know ours any more, or has closed it."""
        try:
            return await use(await self._account(authority, hold))
        except IssuingFailed as error:
            if error.failure is not Failure.LOST_ACCOUNT:
                raise
            directory = authority.settings.directory
            log.warning("%s has no use for our account; it is registered anew: %s", directory, error.text)
        return await use(await self._account(authority, hold, anew=True))

    async def _resume_or_issue(
        self,
        authority: Authority,
        account: Account,
        wanted: Wanted,
        hold: Hold,
        replaces: bytes,
        verdict: Verdict,
    ) -> Issued:
        tools, ca, use_dns = self._tools, authority.settings, self.plan.use_dns
        steps = self._steps(ca, wanted, hold, is_emergency=verdict.state is State.EMERGENCY)
        journal = await self._journal(wanted, ca)
        if journal is not None:
            log.info("certificate %s: going on with an order begun at %s", wanted.label, journal.begun_at)
            try:
                issued = await authority.resume(account, journal, steps, use_dns=use_dns)
            except IssuingFailed as error:
                if error.failure not in _LEADS_NOWHERE:
                    raise
                log.info("certificate %s: that order leads nowhere: %s", wanted.label, error.text)
                await self._drop_journal(wanted, hold)
                if error.failure is Failure.VALIDATION and error.names:
                    raise
            else:
                tools.figures.resumed += 1
                return issued
        await hold.check()
        await tools.record.note(ca.directory, budget.ORDER, budget.ACCOUNT)
        return await authority.issue(account, wanted, steps, replaces=replaces, use_dns=use_dns)

    async def _journal(self, wanted: Wanted, ca: CaSettings) -> Journal | None:
        try:
            journal = await self._tools.vault.journal(wanted.id)
        except BucketUnavailable as error:
            log.warning("certificate %s: no journal can be read: %s", wanted.label, error)
            return None
        if journal is None or journal.ca != ca.directory or journal.wanted != wanted:
            return None
        is_stuck = self._tools.now() - journal.begun_at >= self._patience(wanted)
        return None if is_stuck else journal

    def _patience(self, wanted: Wanted) -> timedelta:
        """With an order that comes to no end: it must not take all the time that is left."""
        bundle = self._tools.shelf.bundle(wanted.id)
        if bundle is None:
            return JOURNAL_MAX_AGE_MISSING
        left = bundle.not_after - self._tools.now()
        return min(JOURNAL_MAX_AGE, max(JOURNAL_MIN_AGE, left / 4))

    async def _account(self, authority: Authority, hold: Hold, *, anew: bool = False) -> Account:
        """Of this CA; registered, and kept where all nodes find it, when it was not there. Raises
        IssuingFailed."""
        vault, directory = self._tools.vault, authority.settings.directory
        try:
            known = await vault.account(directory)
            if known is not None and anew:
                known = replace(known, uri="")
            await hold.check()
            account = await authority.account(known)
            if account != known:
                await vault.put_account(account, hold.fence)
                log.info("account at %s: %s", directory, account.uri)
            self._tools.answers.know_account(account.key_json)
        except BucketUnavailable as error:
            local = await vault.account_local(directory)
            if isinstance(local, Account) and not anew:
                return local
            raise IssuingFailed(Failure.UNPUBLISHED, f"the account cannot be kept: {error}") from error
        return account

    def _steps(
        self,
        ca: CaSettings,
        wanted: Wanted,
        hold: Hold,
        *,
        keeps_journal: bool = True,
        is_emergency: bool = False,
    ) -> Steps:
        return OrderSteps(self._tools, ca, wanted, hold, keeps_journal, is_emergency).steps()

    # --- after ---

    async def _publish(
        self, issued: Issued, ca: CaSettings, wanted: Wanted, hold: Hold, verdict: Verdict
    ) -> None:
        tools = self._tools
        generation = Generation(
            *(
                wanted.id,
                hold.fence,
                issued.chain_pem,
                issued.key_pem,
                ca.directory,
                tools.now(),
                wanted.names,
            )
        )
        await hold.check()
        try:
            await tools.vault.publish(generation)
        except CertificateUnusable as error:
            await self._drop_journal(wanted, hold)
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
        await self._drop_journal(wanted, hold)  # what was due is not any more; before, it is gone on with
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

    async def _drop_journal(self, wanted: Wanted, hold: Hold) -> None:
        try:
            await self._tools.vault.drop_journal(wanted.id, hold.fence)
        except BucketUnavailable as error:
            log.info("the journal of %s stays for now: %s", wanted.label, error)

    async def _failed(
        self,
        error: IssuingFailed,
        ca: CaSettings,
        wanted: Wanted,
        attempts: Mapping[str, Attempts],
        hold: Hold,
        verdict: Verdict,
    ) -> Outcome:
        tools = self._tools
        tools.figures.failures[error.failure.value] += 1
        if error.failure is Failure.FENCED:
            log.warning("certificate %s: given up, %s", wanted.label, error.text)
            return Outcome(Result.DEFERRED, error.text)
        before, chance, left_s = attempts[ca.directory], tools.chance(), self._left_s(wanted)
        after = retry.after_failure(before, error, tools.now(), chance, self.plan.digest, left_s=left_s)
        await tools.record.save(ca.directory, wanted.id, after)
        if error.failure in _ENDS_ORDER:
            await self._drop_journal(wanted, hold)
        if error.failure is Failure.VALIDATION:
            for name in error.names or wanted.names:
                await tools.record.note(ca.directory, budget.FAILURE, name)
        until = self._next_attempt({**attempts, ca.directory: after}) if verdict.state.needs_order else None
        then = f"the next attempt is at {until:%Y-%m-%d %H:%M:%S} UTC" if until else "it is not due"
        log.error(
            "certificate %s: %s failed (%s): %s; %s",
            *(wanted.label, ca.directory, error.failure.value, error.text, then),
        )
        return Outcome(Result.FAILED, str(error), until)

    def _next_attempt(self, attempts: Mapping[str, Attempts]) -> datetime:
        now = self._tools.now()
        following = retry.next_step(self.plan.cas, attempts, now, self.plan.digest)
        return following.until if isinstance(following, retry.Blocked) else now

    def _left_s(self, wanted: Wanted) -> float:
        bundle = self._tools.shelf.bundle(wanted.id)
        return (bundle.not_after - self._tools.now()).total_seconds() if bundle else 0.0


def revoked_subject(generation: Generation) -> str:
    """Of the note that a certificate was revoked."""
    return f"{generation.wanted_id}/{generation.fence}"
