"""The scripts of a recipient, run on a message that is being delivered.

What scripts decide about sending (redirect, reject, vacation, notify) is carried out by ``sending``.

Small scripts on small messages run on the loop; what takes long is begun again in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from storage.errors import StorageError
from storage.mime.structure import decode_structure
from storage.model import AccountId, ActiveScript
from storage.scripts import ScriptStore

from .mailboxnames import Known, MailboxNames
from .scriptcache import ScriptCache
from .sieve.budget import Limits
from .sieve.errors import ScriptErrors
from .sieve.interpreter import Named, evaluate
from .sieve.outcome import Keep, Outcome
from .sieve.questions import (
    IsListed,
    ListExists,
    MailboxExists,
    MailboxIdExists,
    MessageContent,
    Metadata,
    Question,
    SeenBefore,
    SpecialUseExists,
    Unanswered,
)
from .sieve.run import Mail
from .sieve.script import IncludeName, Script

log = logging.getLogger("sora.sieve")

# What may run on the loop: some milliseconds.
LOOP_STEPS = 4_000
LOOP_BYTES = 128 * 1024
# Questions that one run may ask, each a read of the database at most.
MAX_QUESTIONS = 64

Data = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class SiteScripts:
    """Scripts of the site, run before and after the user's, and those it lets users include."""

    before: bytes = b""
    after: bytes = b""
    shared: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as one recipient would get it. ``data`` and ``structure`` are of the content, which begins
    behind the trace fields; ``environment`` is RFC 5183's."""

    sender: str
    recipient: str
    trace: bytes
    header: bytes
    size_bytes: int
    structure: bytes
    data: Data
    environment: Mapping[str, str]


class MailFilter:
    """One per process. ``extensions``: names that scripts may require, None: all there are."""

    def __init__(
        self,
        scripts: ScriptStore,
        names: MailboxNames,
        *,
        extensions: frozenset[str] | None = None,
        limits: Limits | None = None,
        site: SiteScripts | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.scripts = scripts
        self.names = names
        self._cache = ScriptCache(extensions)
        self._limits = limits or Limits()
        self._site = site or SiteScripts()
        self._clock = clock
        self._now = now
        self.loop_limits = replace(self._limits, steps=min(LOOP_STEPS, self._limits.steps))

    def applies(self, script: ActiveScript | None) -> bool:
        """Whether anything would run for a recipient with this script."""
        return script is not None or bool(self._site.before or self._site.after)

    async def decide(self, account_id: AccountId, script: ActiveScript | None, mail: Incoming) -> Outcome:
        """What to do with the message. Raises StorageError: nothing is decided
        then, and the message must come again."""
        named, broken = self._named(script)
        if broken:
            return Outcome((Keep(None),), fault=broken)
        library = await self._library(account_id, named)
        running = _Running(self, account_id, mail, named, library)
        return await running.finish()

    def _named(self, script: ActiveScript | None) -> tuple[list[Named], str]:
        """The scripts to run, or why one of them cannot."""
        texts = (
            ("before", self._site.before),
            (script.name if script else "", script.content if script else b""),
            ("after", self._site.after),
        )
        named = []
        for name, content in texts:
            if not content:
                continue
            found = self._cache.get(content)
            if isinstance(found, ScriptErrors):
                return [], f"{name}: {found.errors[0]}"
            named.append(Named(name, found))
        return named, ""

    async def _library(self, account_id: AccountId, named: list[Named]) -> dict[IncludeName, Script | None]:
        """All scripts that may be included, one read for each level."""
        library: dict[IncludeName, Script | None] = {}
        wanted = {name for each in named for name in each.script.includes}
        while wanted and len(library) <= self._limits.includes:
            personal = [name.name for name in wanted if name.location == "personal"]
            texts = await self.scripts.contents(account_id, personal) if personal else {}
            for name in wanted:
                source = texts if name.location == "personal" else self._site.shared
                content = source.get(name.name)
                compiled = None if content is None else self._cache.get(content)
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
        self._account_id = account_id
        self._mail = mail
        self._named = named
        self._library = library
        self._mailboxes: Known | None = None
        self._answers: dict[Question, Any] = {}
        size_bytes = len(mail.trace) + mail.size_bytes
        self._facts = Mail(mail.trace + mail.header, size_bytes, mail.sender, mail.recipient)

    async def finish(self) -> Outcome:
        for _ in range(MAX_QUESTIONS):
            try:
                return await self._run()
            except Unanswered as asked:
                await self._find_out(asked.question)
        return Outcome((Keep(None),), fault=f"scripts ask more than {MAX_QUESTIONS} questions")

    async def _run(self) -> Outcome:
        owner, mail = self._owner, self._mail
        if mail.size_bytes <= LOOP_BYTES:
            limits = owner.loop_limits
            found = self._evaluate(limits)
            if not found.fault or found.steps <= limits.steps:
                return found
        return await asyncio.to_thread(self._evaluate, None)

    def _evaluate(self, limits: Limits | None) -> Outcome:
        return self._owner.evaluate(
            self._named, self._facts, self._answer, self._library, self._mail.environment, limits=limits
        )

    def _answer(self, question: Question) -> Any:
        if isinstance(question, MessageContent):
            return self._content()
        if question in self._answers:
            return self._answers[question]
        if isinstance(question, Metadata):
            return None  # this version keeps none
        if isinstance(question, ListExists | IsListed):
            return False  # this version has none
        if isinstance(question, SeenBefore) or self._mailboxes is None:
            raise Unanswered(question)
        return _about_mailboxes(self._mailboxes, question)

    def _content(self) -> Any:
        found = self._answers.get(MessageContent())
        if found is None:
            found = (self._mail.data, decode_structure(self._mail.structure))
            self._answers[MessageContent()] = found
        return found

    async def _find_out(self, question: Question) -> None:
        owner = self._owner
        if isinstance(question, SeenBefore):
            seen = await owner.scripts.seen(self._account_id, [question.key])
            self._answers[question] = question.key in seen
        else:
            self._mailboxes = await owner.names.of(self._account_id)


def _about_mailboxes(known: Known, question: Question) -> bool:
    if isinstance(question, MailboxExists):
        return known.named(question.mailbox) is not None
    if isinstance(question, MailboxIdExists):
        return question.mailbox_id in known.by_object_id
    assert isinstance(question, SpecialUseExists)
    found = known.by_use.get(question.use)
    if not question.mailbox:
        return found is not None
    named = known.named(question.mailbox)
    return found is not None and named is not None and found.id == named.id


async def remember(scripts: ScriptStore, account_id: AccountId, outcome: Outcome) -> None:
    """After the message was delivered: what ``duplicate`` has to know of it. Never raises StorageError: the
    message is delivered already."""
    if not outcome.seen:
        return
    try:
        await scripts.remember(account_id, [(seen.key, seen.period_s) for seen in outcome.seen])
    except StorageError as error:
        log.warning("what duplicate has seen was not remembered: %s", error)
