"""What the scripts of a recipient make of a message that is being delivered, or of what happened to one.

What they decide about sending (redirect, reject, vacation, notify) is carried out by ``sending``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from storage.errors import StorageError
from storage.model import AccountId, ActiveScript
from storage.scripts import ScriptStore

from .addresslists import ListSource
from .annotations import Annotations
from .answers import Sources
from .incoming import Incoming
from .junk import JunkRule, filed
from .mailboxnames import MailboxNames
from .scriptlibrary import Included, ScriptLibrary, SiteScripts
from .scriptruns import ScriptRuns
from .sieve.budget import Limits
from .sieve.errors import ScriptErrors
from .sieve.fields import Fields
from .sieve.interpreter import Named
from .sieve.outcome import Action, Keep, Outcome, Redirect
from .sieve.registry import ONLY_AT_DELIVERY
from .sieve.script import Script
from .sieve.verdict import merged

log = logging.getLogger("sora.sieve")

# Of a list that a message is sent on to; what goes beyond is kept (the rate of an account is limited anyway).
MAX_MEMBERS = 1_000


class MailFilter:
    """One per process. ``extensions``: names that users' scripts may require, None: all there are; the site's
    may require these always."""

    def __init__(
        self,
        scripts: ScriptStore,
        names: MailboxNames,
        *,
        annotations: Annotations | None = None,
        lists: ListSource | None = None,
        extensions: frozenset[str] | None = None,
        limits: Limits | None = None,
        site: SiteScripts | None = None,
        junk: JunkRule | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.scripts = scripts
        self.names = names
        self._lists = lists
        self._junk = junk
        limits = limits or Limits()
        self._library = ScriptLibrary(
            scripts, site or SiteScripts(), extensions, max_includes=limits.includes
        )
        self._runs = ScriptRuns(Sources(scripts, names, annotations, lists), limits, clock, now)

    def applies(self, script: ActiveScript | None) -> bool:
        """Whether anything would run for a recipient with this script."""
        return script is not None or self._library.has_site_scripts

    def is_junk(self, header: bytes) -> bool:
        """Whether this goes to Junk where no script decides."""
        return self._junk is not None and self._junk.is_spam(header)

    def is_idle(self, script: ActiveScript | None, fields: Fields) -> bool:
        """Whether a message with these fields goes as it would without scripts: no rule of theirs can hold.
        Most mail is of this kind, and this costs a fraction of ``decide``."""
        scripts = self._library.scripts(script)
        return not _draws_a_line(scripts) and self._runs.are_idle(scripts, fields)

    async def decide(self, account_id: AccountId, script: ActiveScript | None, mail: Incoming) -> Outcome:
        """What to do with the message. Raises StorageError: nothing is decided then, it has to come
        again."""
        named = self._library.named(script)
        included = await self._library.included(account_id, named)
        outcome = await self._runs.outcome(account_id, mail, named, included)
        outcome = await self._with_members(outcome, mail)
        return self._filed(outcome, [*(each.script for each in named), *included.values()], mail)

    def _filed(self, outcome: Outcome, scripts: Iterable[Script | None], mail: Incoming) -> Outcome:
        if _draws_a_line(scripts) or not outcome.implicit_keep or not self.is_junk(mail.header):
            return outcome
        return filed(outcome)

    async def decide_event(self, account_id: AccountId, script: ActiveScript, mail: Incoming) -> Outcome:
        """What a script makes of something that happened to a message in a mailbox (RFC 6785): of this script
        alone, and where it goes wrong nothing but the keep. Raises StorageError."""
        found = self._library.compiled(script)
        if isinstance(found, ScriptErrors):
            return _untouched(mail, f"{script.name}: {found.errors[0]}")
        named = [Named(script.name, found)]
        included = await self._library.included(account_id, named)
        if trouble := inapplicable(found, included):
            return _untouched(mail, f"{script.name}: {trouble}")
        outcome = await self._runs.outcome(account_id, mail, named, included)
        return _untouched(mail, outcome.fault) if outcome.fault else await self._with_members(outcome, mail)

    async def _with_members(self, outcome: Outcome, mail: Incoming) -> Outcome:
        """A redirect to a list is one to each of its members (RFC 6134 §2.5); to a list that is not there it
        stays as it is. Raises StorageError."""
        if not any(isinstance(each, Redirect) and each.list_name for each in outcome.actions):
            return outcome
        actions: list[Action] = []
        for action in outcome.actions:
            members = await self._members(action)
            actions += [action] if members is None else members
        return replace(outcome, actions=tuple(merged(actions, keeps_in_inbox=mail.is_delivery)))

    async def _members(self, action: Action) -> list[Action] | None:
        if not isinstance(action, Redirect) or not action.list_name or self._lists is None:
            return None
        found = await self._lists.find(action.list_name)
        if found is None or not 0 < len(found.members) <= MAX_MEMBERS:
            return None
        return [replace(action, address=each, list_name="") for each in sorted(found.members)]


def _draws_a_line(scripts: Iterable[Script | None]) -> bool:
    """Whether one of them says itself what is spam."""
    for each in scripts:  # noqa: SIM110  (a generator costs twice as much)
        if each is not None and "spamtest" in each.extensions:
            return True
    return False


def inapplicable(script: Script, library: Included) -> str:
    """Why it may not run on what happens in mailboxes; empty when it may."""
    used = script.extensions.union(*(each.extensions for each in library.values() if each))
    what = ", ".join(sorted(used & ONLY_AT_DELIVERY))
    return f"{what} is for mail that is being delivered" if what else ""


def _untouched(mail: Incoming, fault: str) -> Outcome:
    return Outcome((Keep(None, mail.flags),), fault=fault)


async def remember(scripts: ScriptStore, account_id: AccountId, outcome: Outcome) -> None:
    """After the message was delivered: what ``duplicate`` has to know of it. Never raises StorageError: the
    message is delivered already."""
    if not outcome.seen:
        return
    try:
        await scripts.remember(account_id, [(seen.key, seen.period_s) for seen in outcome.seen])
    except StorageError as error:
        log.warning("what duplicate has seen was not remembered: %s", error)
