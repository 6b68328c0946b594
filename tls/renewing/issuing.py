"""The CA's part of an order: account, profile, a trial, an order that was begun before; and what is done
about a name that cannot be validated.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from .. import budget
from ..policy import State, Verdict
from ..ports import (
    Account,
    Authority,
    BucketUnavailable,
    CaSettings,
    Failure,
    Issued,
    IssuingFailed,
    Journal,
    Steps,
)
from ..retry import Step
from ..wanted import Wanted
from .hold import Hold
from .plan import Plan
from .shelf import Copy
from .steps import OrderSteps
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")

JOURNAL_MAX_AGE: Final = timedelta(days=1)
JOURNAL_MAX_AGE_MISSING: Final = timedelta(hours=1)  # of one for a certificate that is not there at all
JOURNAL_MIN_AGE: Final = timedelta(minutes=10)  # until who comes after a dead node has had its chance

# Of an order of before: BAD_ACCOUNT, for it may be that of an account that was lost.
_LEADS_NOWHERE: Final = frozenset({Failure.VALIDATION, Failure.REFUSED, Failure.BAD_ACCOUNT})
# What fails at one CA fails at another.
_ABOUT_US: Final = frozenset({Failure.VALIDATION, Failure.REJECTED_NAME, Failure.UNPUBLISHED, Failure.FENCED})
# UNPUBLISHED: of one zone, say, that we may not change any more.
_ABOUT_NAMES: Final = frozenset({Failure.VALIDATION, Failure.REJECTED_NAME, Failure.UNPUBLISHED})


@dataclass(frozen=True, slots=True)
class Obtained:
    """``names``: what it is for; ``failure``: why these are not all, or None."""

    issued: Issued
    names: tuple[str, ...]
    failure: IssuingFailed | None = None


class Issuing:
    """``plan`` may be replaced."""

    def __init__(self, tools: Tools, plan: Plan) -> None:
        self.plan = plan
        self._tools = tools

    async def obtain(
        self,
        step: Step,
        wanted: Wanted,
        hold: Hold,
        current: Copy | None,
        verdict: Verdict,
        *,
        may_lack_names: bool,
    ) -> Obtained:
        """``may_lack_names``: those that fail are left out rather than have no certificate for the others.
        Raises IssuingFailed."""
        try:
            if step.trial is not None:
                await self._try_out_first(step.trial, wanted, hold)
            issued = await self._issue(step.ca, wanted, hold, current, verdict)
            return Obtained(issued, wanted.names)
        except IssuingFailed as error:
            await self._note(error, step.ca, wanted)
            good = tuple(name for name in wanted.names if name not in error.names)
            is_of_some = 0 < len(good) < len(wanted.names) and error.failure in _ABOUT_NAMES
            if not (may_lack_names and is_of_some):
                raise
            bad, failure = ", ".join(name for name in wanted.names if name not in good), error
        log.critical("certificate %s: ordered without %s: %s", wanted.label, bad, failure)
        await self.drop_journal(wanted, hold)
        less = replace(wanted, names=good)
        try:
            return Obtained(await self._issue(step.ca, less, hold, current, verdict), good, failure)
        except IssuingFailed as error:
            await self._note(error, step.ca, less)
            raise

    async def _note(self, error: IssuingFailed, ca: CaSettings, wanted: Wanted) -> None:
        """For the budget of validations."""
        if error.failure is Failure.VALIDATION:
            for name in error.names or wanted.names:
                await self._tools.record.note(ca.directory, budget.FAILURE, name)

    async def _try_out_first(self, ca: CaSettings, wanted: Wanted, hold: Hold) -> None:
        """Raises IssuingFailed for what would fail at the real CA, too; troubles of this one forbid
        nothing."""
        try:
            await self.try_out(ca, wanted, hold)
        except IssuingFailed as error:
            if error.failure in _ABOUT_US:
                raise
            log.warning("certificate %s: cannot be tried out: %s", wanted.label, error)

    async def try_out(self, ca: CaSettings, wanted: Wanted, hold: Hold) -> None:
        log.info("certificate %s: tried out at %s first", wanted.label, ca.directory)
        authority = self._tools.authority(ca)
        steps = self._steps(ca, wanted, hold, keeps_journal=False)

        async def order(account: Account) -> Issued:
            plain = replace(wanted, profile="")
            return await authority.issue(account, plain, steps, use_dns=self.plan.use_dns)

        await self._with_account(authority, hold, order)
        log.info("certificate %s: %s would issue it", wanted.label, ca.directory)

    async def _issue(
        self, ca: CaSettings, wanted: Wanted, hold: Hold, current: Copy | None, verdict: Verdict
    ) -> Issued:
        authority = self._tools.authority(ca)
        replaces = b""
        if current is not None and current.generation.ca == ca.directory:
            replaces = current.generation.chain_pem
        asked = await self._fitting(authority, wanted, verdict)

        async def order(account: Account) -> Issued:
            return await self._resume_or_issue(authority, account, asked, hold, replaces, verdict)

        return await self._with_account(authority, hold, order)

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
        steps = self._steps(
            ca,
            wanted,
            hold,
            keeps_journal=self.plan.find(wanted.id) is not None,  # who comes after begins with all names
            is_emergency=verdict.state is State.EMERGENCY,
        )
        journal = await self._journal(wanted, ca)
        if journal is not None:
            log.info("certificate %s: going on with an order begun at %s", wanted.label, journal.begun_at)
            try:
                issued = await authority.resume(account, journal, steps, use_dns=use_dns)
            except IssuingFailed as error:
                if error.failure not in _LEADS_NOWHERE:
                    raise
                log.info("certificate %s: that order leads nowhere: %s", wanted.label, error.text)
                await self.drop_journal(wanted, hold)
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
            if known is None:
                known = await self._elsewhere(directory)
            elif anew:
                known = replace(known, uri="")
            await hold.check()
            account = await authority.account(known)
            if account != known:
                await vault.put_account(account, hold.fence)
                log.info("account at %s: %s", directory, account.uri)
            self._tools.answers.know_account(account.key_json)
        except BucketUnavailable as error:
            local = await vault.account_local(directory)
            if local is not None and not anew:
                return local
            raise IssuingFailed(Failure.UNPUBLISHED, f"the account cannot be kept: {error}") from error
        return account

    async def _elsewhere(self, directory: str) -> Account | None:
        """To be registered there with the key that other CAs know already: so any node can answer for all of
        them, whichever asks."""
        for ca in self.plan.cas:
            account = await self._tools.vault.account(ca.directory)
            if account is not None:
                return Account(directory, account.key_json)
        return None

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

    async def drop_journal(self, wanted: Wanted, hold: Hold) -> None:
        try:
            await self._tools.vault.drop_journal(wanted.id, hold.fence)
        except BucketUnavailable as error:
            log.info("the journal of %s stays for now: %s", wanted.label, error)
