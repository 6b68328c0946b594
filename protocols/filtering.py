"""The scripts of a recipient, run on a message that is being delivered.

What scripts decide about sending (redirect, reject, vacation, notify) is carried out by ``sending``.

Small scripts on small messages run on the loop; what takes long is begun again in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from storage.errors import StorageError, Unavailable
from storage.model import AccountId, ActiveScript
from storage.scripts import ScriptStore

from .addresslists import ListSource
from .annotations import Annotations
from .answers import AccountAnswers, Data, Sources
from .junk import JunkRule, filed
from .mailboxnames import MailboxNames
from .scriptcache import ScriptCache
from .sieve.budget import Limits
from .sieve.compiling import failing
from .sieve.errors import ScriptErrors
from .sieve.interpreter import Named, evaluate
from .sieve.outcome import Action, Keep, Outcome, Redirect
from .sieve.questions import Question, Unanswered
from .sieve.registry import ONLY_AT_DELIVERY
from .sieve.run import Mail
from .sieve.script import IncludeName, Script
from .sieve.verdict import merged

log = logging.getLogger("sora.sieve")

# What may run on the loop: some milliseconds.
LOOP_STEPS = 4_000
LOOP_BYTES = 128 * 1024
# Questions that one run may ask, each a read of the database at most.
MAX_QUESTIONS = 64

# Of a list that a message is sent on to; what goes beyond is kept (the rate of an account is limited anyway).
MAX_MEMBERS = 1_000


@dataclass(frozen=True, slots=True)
class SiteScripts:
    """Scripts of the site, run before and after the user's, and those it lets users include."""

    before: bytes = b""
    after: bytes = b""
    shared: Mapping[str, bytes] = field(default_factory=dict)


async def _no_data() -> Data:
    raise Unavailable("the message is not at hand")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as one recipient would get it, or as it lies in a mailbox. ``data`` and ``structure`` are of
    the content, which begins behind the trace fields; ``environment`` is RFC 5183's.

    Where ``data`` is None, ``load`` brings it when a script asks for more than the header. It raises
    StorageError.
    """

    sender: str
    recipient: str
    trace: bytes
    header: bytes
    size_bytes: int
    structure: bytes
    data: Data | None
    environment: Mapping[str, str]
    flags: tuple[str, ...] = ()  # that it has already
    is_delivery: bool = True  # False: something happened to it in a mailbox, and there is no envelope
    load: Callable[[], Awaitable[Data]] = _no_data


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
        self.sources = Sources(scripts, names, annotations, lists)
        self._cache = ScriptCache(extensions)
        self._site_cache = ScriptCache()
        self._limits = limits or Limits()
        self._site = site or SiteScripts()
        self._junk = junk
        self._clock = clock
        self._now = now
        self.loop_limits = replace(self._limits, steps=min(LOOP_STEPS, self._limits.steps))

    def applies(self, script: ActiveScript | None) -> bool:
        """Whether anything would run for a recipient with this script."""
        return script is not None or bool(self._site.before or self._site.after)

    def is_junk(self, header: bytes) -> bool:
        """Whether this goes to Junk where no script decides."""
        return self._junk is not None and self._junk.is_spam(header)

    async def decide(self, account_id: AccountId, script: ActiveScript | None, mail: Incoming) -> Outcome:
        """What to do with the message. Raises StorageError: nothing is decided
        then, and the message must come again."""
        named = self._named(script)
        library = await self._library(account_id, named)
        running = _Running(self, account_id, mail, named, library)
        outcome = await self._with_members(await running.finish(), mail)
        return self._filed(outcome, [*named, *_included(library)], mail)

    def _filed(self, outcome: Outcome, named: Sequence[Named], mail: Incoming) -> Outcome:
        asks = any("spamtest" in each.script.extensions for each in named)
        if asks or not outcome.implicit_keep or not self.is_junk(mail.header):
            return outcome
        return filed(outcome)

    async def decide_event(self, account_id: AccountId, script: ActiveScript, mail: Incoming) -> Outcome:
        """What a script makes of something that happened to a message in a mailbox (RFC 6785): of this script
        alone, and where it goes wrong nothing but the keep. Raises StorageError."""
        found = self._cache.get(script.content)
        if isinstance(found, ScriptErrors):
            return _untouched(mail, f"{script.name}: {found.errors[0]}")
        named = [Named(script.name, found)]
        library = await self._library(account_id, named)
        if trouble := inapplicable(found, library):
            return _untouched(mail, f"{script.name}: {trouble}")
        outcome = await _Running(self, account_id, mail, named, library).finish()
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
        if not isinstance(action, Redirect) or not action.list_name or self.sources.lists is None:
            return None
        found = await self.sources.lists.find(action.list_name)
        if found is None or not 0 < len(found.members) <= MAX_MEMBERS:
            return None
        return [replace(action, address=each, list_name="") for each in sorted(found.members)]

    def _named(self, script: ActiveScript | None) -> list[Named]:
        """The scripts to run. One with mistakes fails when its turn comes: what the site's script before it
        decides stays."""
        texts = (
            ("before", self._site.before, self._site_cache),
            (script.name if script else "", script.content if script else b"", self._cache),
            ("after", self._site.after, self._site_cache),
        )
        return [Named(name, _runnable(cache.get(content))) for name, content, cache in texts if content]

    async def _library(self, account_id: AccountId, named: list[Named]) -> dict[IncludeName, Script | None]:
        """All scripts that may be included, one read for each level."""
        library: dict[IncludeName, Script | None] = {}
        wanted = {name for each in named for name in each.script.includes}
        while wanted and len(library) <= self._limits.includes:
            personal = [name.name for name in wanted if name.location == "personal"]
            texts = await self.scripts.contents(account_id, personal) if personal else {}
            for name in wanted:
                is_personal = name.location == "personal"
                content = (texts if is_personal else self._site.shared).get(name.name)
                cache = self._cache if is_personal else self._site_cache
                compiled = None if content is None else cache.get(content)
                library[name] = None if isinstance(compiled, ScriptErrors) else compiled
            found = (library[name] for name in wanted)
            wanted = {inner for each in found if each for inner in each.includes} - library.keys()
        return library

    def evaluate(
        self,
        named: list[Named],
        mail: Mail,
        answers: Callable[[Question], Any],
        library: Mapping[IncludeName, Script | None],
        environment: Mapping[str, str],
        *,
        limits: Limits | None = None,
    ) -> Outcome:
        return evaluate(
            named,
            mail,
            answers,
            now=self._now(),
            clock=self._clock,
            limits=limits or self._limits,
            environment=environment,
            library=library,
        )


def _runnable(found: Script | ScriptErrors) -> Script:
    return failing(str(found.errors[0])) if isinstance(found, ScriptErrors) else found


def _included(library: Mapping[IncludeName, Script | None]) -> list[Named]:
    return [Named(name.name, script) for name, script in library.items() if script is not None]


class _Running:
    """One message: asks, waits and runs again until everything is answered."""

    def __init__(
        self,
        owner: MailFilter,
        account_id: AccountId,
        mail: Incoming,
        named: list[Named],
        library: Mapping[IncludeName, Script | None],
    ) -> None:
        self._owner = owner
        self._mail = mail
        self._named = named
        self._library = library
        self._answers = AccountAnswers(owner.sources, account_id, mail)
        self._facts = Mail(
            mail.trace + mail.header,
            len(mail.trace) + mail.size_bytes,
            mail.sender,
            mail.recipient,
            flags=mail.flags,
            is_delivery=mail.is_delivery,
        )

    async def finish(self) -> Outcome:
        for _ in range(MAX_QUESTIONS):
            try:
                return await self._run()
            except Unanswered as asked:
                await self._answers.find_out(asked.question)
        return Outcome((Keep(None),), fault=f"scripts ask more than {MAX_QUESTIONS} questions")

    async def _run(self) -> Outcome:
        owner = self._owner
        if self._mail.size_bytes <= LOOP_BYTES or not self._answers.has_content:
            limits = owner.loop_limits
            found = self._evaluate(limits)
            if not found.fault or found.steps <= limits.steps:
                return found
        return await asyncio.to_thread(self._evaluate, None)

    def _evaluate(self, limits: Limits | None) -> Outcome:
        return self._owner.evaluate(
            self._named, self._facts, self._answers, self._library, self._mail.environment, limits=limits
        )


def inapplicable(script: Script, library: Mapping[IncludeName, Script | None]) -> str:
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
