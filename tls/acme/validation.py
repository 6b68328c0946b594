"""The proof that names are ours (RFC 8555 §7.5): answers are published, the CA is told, and looks.

In a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import requests

from ..ports import BucketUnavailable, Failure, IssuingFailed, Steps
from .client import Client, Refused, base64url, failures, json_of
from .dns01 import DnsFailed
from .polling import pause, pauses
from .problems import ORDERING, VALIDATING, Problem, failed, joined
from .resources import Authorisation, Challenge, NotAcme, Order, parse_authorisation
from .thread import Talk

# After these the CA does not look for our answers any more. After all others, and when we are stopped, it may
# be looking right now, or another node may go on with the order: answers stay, for they are the other's too.
DECIDED = frozenset({Failure.VALIDATION, Failure.REFUSED, Failure.REJECTED_NAME, Failure.UNPUBLISHED})
LOOKS_AFTER_REFUSAL = 6  # over some 2 s


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a challenge. ``url``: of its authorisation; ``place``: token, or name of the record."""

    url: str
    name: str
    kind: str
    place: str
    value: str
    challenge: Challenge


class Validation:
    """Of one order; ``run`` may be repeated."""

    def __init__(
        self, client: Client, talk: Talk, steps: Steps, names: Sequence[str], *, use_dns: bool
    ) -> None:
        self._client = client
        self._talk = talk
        self._steps = steps
        self._names = frozenset(names)
        self._use_dns = use_dns

    def run(self, order: Order) -> None:
        """Until every authorisation is valid; those that are need no answer. Raises IssuingFailed."""
        with failures(ORDERING):
            answers = self._answers(order)
        published: list[Answer] = []
        try:
            self._publish(answers, published)
            self._tell(answers)
            self._until_validated(answers)
        except IssuingFailed as failure:
            if failure.failure in DECIDED:
                self._withdraw(published)
            raise
        self._withdraw(published)

    def broken(self, order: Order) -> list[IssuingFailed]:
        """Why an order has become invalid, as far as its authorisations tell."""
        with failures(ORDERING):
            every = [self._authorisation(url)[0] for url in order.authorisations]
        return [_why_not(each) for each in every if each.status not in ("valid", "pending")]

    def _authorisation(self, url: str) -> tuple[Authorisation, requests.Response]:
        response = self._client.post(url)
        return parse_authorisation(json_of(response)), response

    # --- what to answer ---

    def _answers(self, order: Order) -> list[Answer]:
        found = []
        for url in order.authorisations:
            authorisation, _ = self._authorisation(url)
            if authorisation.status == "pending":
                found.append(self._answer_to(url, authorisation))
        return found

    def _answer_to(self, url: str, authorisation: Authorisation) -> Answer:
        name, label = authorisation.name, authorisation.label
        if label not in self._names:
            raise NotAcme(f"an authorisation for {label[:255]!r}, which is not in the order")
        kind = "dns-01" if self._use_dns or authorisation.is_wildcard else "http-01"
        challenge = authorisation.challenge(kind)
        if challenge is None:
            offered = ", ".join(each.kind for each in authorisation.challenges)
            words = f"{label}: the CA does not offer {kind}, only {offered}"
            raise IssuingFailed(Failure.REFUSED, words, names=(label,))
        assert self._client.key is not None
        key_authorisation = f"{challenge.token}.{base64url(self._client.key.thumbprint())}"
        if kind == "http-01":
            return Answer(url, name, kind, challenge.token, key_authorisation, challenge)
        value = base64url(hashlib.sha256(key_authorisation.encode("ascii")).digest())
        return Answer(url, name, kind, f"_acme-challenge.{name}", value, challenge)

    # --- publishing ---

    def _publish(self, answers: Sequence[Answer], published: list[Answer]) -> None:
        """``published`` has those that must be withdrawn, also when this fails."""
        steps = self._steps
        for answer in (each for each in answers if each.kind == "http-01"):
            self._talk.run(steps.check)
            with self._publishing(answer):
                publish = functools.partial(steps.publish_http, answer.name, answer.place, answer.value)
                self._talk.run(publish)
            published.append(answer)
            self._say(f"published the http-01 answer for {answer.name}")
        records = [each for each in answers if each.kind == "dns-01"]
        if records:
            self._talk.run(steps.check)
            published.extend(records)  # one that is not visible yet may be there
            self._talk.run(lambda: self._publish_records(records))

    async def _publish_records(self, records: Sequence[Answer]) -> None:
        """All at once: each waits for name servers, and they are the same ones for all."""
        outcomes = await asyncio.gather(*map(self._publish_record, records), return_exceptions=True)
        failed_ones = [outcome for outcome in outcomes if isinstance(outcome, IssuingFailed)]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, IssuingFailed):
                raise outcome
        if failed_ones:
            raise joined(failed_ones)

    async def _publish_record(self, answer: Answer) -> None:
        with self._publishing(answer):
            await self._steps.publish_dns(answer.place, answer.value)
        self._steps.say(f"published the dns-01 answer for {answer.name}")

    @contextlib.contextmanager
    def _publishing(self, answer: Answer) -> Iterator[None]:
        try:
            yield
        except (BucketUnavailable, DnsFailed) as error:
            sharing = (answer.name, f"*.{answer.name}")  # a name and its wildcard have one record
            names = [name for name in sharing if name in self._names]
            raise IssuingFailed(Failure.UNPUBLISHED, str(error), names=names) from error

    def _withdraw(self, published: Sequence[Answer]) -> None:
        """What cannot be withdrawn is said and left: it is worth nothing to anybody else."""
        for answer in published:
            try:
                self._withdraw_one(answer)
            except (BucketUnavailable, DnsFailed, IssuingFailed) as error:
                self._say(f"the {answer.kind} answer for {answer.name} stays: {error}")

    def _withdraw_one(self, answer: Answer) -> None:
        steps = self._steps
        if answer.kind == "dns-01":
            self._talk.run_anyway(lambda: steps.withdraw_dns(answer.place, answer.value))
        else:
            self._talk.run_anyway(lambda: steps.withdraw_http(answer.name, answer.place))

    # --- the CA looks ---

    def _tell(self, answers: Sequence[Answer]) -> None:
        """One that is looking already, for whom we go on, is left alone."""
        for answer in answers:
            if answer.challenge.status == "pending":
                self._talk.run(self._steps.check)
                with failures(VALIDATING, (answer.name,)):
                    self._tell_one(answer)

    def _tell_one(self, answer: Answer) -> None:
        try:
            self._client.post(answer.challenge.url, {})
        except Refused:
            if not self._is_told(answer):
                raise

    def _is_told(self, answer: Answer) -> bool:
        """By another, meanwhile; a CA shows that some time after it has heard it."""
        for pause_s in itertools.islice(pauses(), LOOKS_AFTER_REFUSAL):
            authorisation, response = self._authorisation(answer.url)
            challenge = authorisation.challenge(answer.kind)
            if authorisation.status != "pending" or (challenge and challenge.status != "pending"):
                return True
            pause(self._talk, response, pause_s)
        return False

    def _until_validated(self, answers: Sequence[Answer]) -> None:
        broken = []
        for answer in answers:
            with failures(VALIDATING):
                authorisation = self._until_decided(answer.url)
            if authorisation.status != "valid":
                broken.append(_why_not(authorisation))
        if broken:
            raise joined(broken)

    def _until_decided(self, url: str) -> Authorisation:
        for pause_s in pauses():
            authorisation, response = self._authorisation(url)
            if authorisation.status != "pending":
                return authorisation
            pause(self._talk, response, pause_s)
        raise AssertionError("pauses never end")

    def _say(self, text: str) -> None:
        self._talk.say(self._steps.say, text)


def _why_not(authorisation: Authorisation) -> IssuingFailed:
    problems = [each.problem for each in authorisation.challenges if each.problem is not None]
    problem = problems[0] if problems else Problem(detail=f"the authorisation is {authorisation.status}")
    found = failed(problem, VALIDATING)
    failure = Failure.VALIDATION if found.failure is Failure.REFUSED else found.failure
    return IssuingFailed(failure, f"{authorisation.label}: {found.text}", names=(authorisation.label,))
