"""Running scripts on one message: they ask, somebody finds out, and they run again until all is answered.

Small scripts on small messages run on the loop; what takes long is begun again in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from storage.model import AccountId

from .answers import AccountAnswers, Sources
from .incoming import Incoming
from .scriptlibrary import Included
from .sieve.budget import Budget, Limits
from .sieve.fields import Fields
from .sieve.interpreter import Named, are_idle, evaluate
from .sieve.outcome import Keep, Outcome
from .sieve.questions import Unanswered
from .sieve.run import Mail
from .sieve.script import Script

# What may run on the loop: some milliseconds.
LOOP_STEPS = 4_000
LOOP_BYTES = 128 * 1024
# Questions that one run may ask, each a read of the database at most.
MAX_QUESTIONS = 64


class ScriptRuns:
    """One per process; stateless."""

    def __init__(
        self, sources: Sources, limits: Limits, clock: Callable[[], float], now: Callable[[], datetime]
    ) -> None:
        self._sources = sources
        self._limits = limits
        self._loop_limits = replace(limits, steps=min(LOOP_STEPS, limits.steps))
        self._clock = clock
        self._now = now

    def are_idle(self, scripts: Sequence[Script], fields: Fields) -> bool:
        """Whether they certainly do nothing. Costs no more than what may run on the loop."""
        return are_idle(scripts, fields, Budget(self._loop_limits, self._clock))

    async def outcome(
        self, account_id: AccountId, mail: Incoming, named: list[Named], library: Included
    ) -> Outcome:
        """What they decide. Raises StorageError: nothing is decided then."""
        answers = AccountAnswers(self._sources, account_id, mail)
        facts = Mail(
            mail.trace + mail.header,
            len(mail.trace) + mail.size_bytes,
            mail.sender,
            mail.recipient,
            flags=mail.flags,
            is_delivery=mail.is_delivery,
        )

        def evaluated(limits: Limits) -> Outcome:
            return evaluate(
                named,
                facts,
                answers,
                now=self._now(),
                clock=self._clock,
                limits=limits,
                environment=mail.environment,
                library=library,
                fields=mail.fields,
            )

        for _ in range(MAX_QUESTIONS):
            is_small = mail.size_bytes <= LOOP_BYTES or not answers.has_content
            try:
                return await self._attempt(evaluated, is_small=is_small)
            except Unanswered as asked:
                await answers.find_out(asked.question)
        return Outcome((Keep(None),), fault=f"scripts ask more than {MAX_QUESTIONS} questions")

    async def _attempt(self, evaluated: Callable[[Limits], Outcome], *, is_small: bool) -> Outcome:
        if is_small:
            found = evaluated(self._loop_limits)
            if not found.fault or found.steps <= self._loop_limits.steps:
                return found
        return await asyncio.to_thread(evaluated, self._limits)
