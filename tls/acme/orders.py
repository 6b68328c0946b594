"""One order at a CA from beginning or from where another left it to the chain. In a worker thread.

The states of an order are RFC 8555 §7.1.6: whatever state the CA reports is the next thing to do, so that
going on with somebody's order and going on with our own are the same code.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from cryptography import x509

from ..bundle import parse_bundle
from ..errors import CertificateUnusable
from ..ports import BucketUnavailable, Failure, Issued, IssuingFailed, Journal, Steps
from ..wanted import Wanted
from .chains import choose_chain, top_issuer
from .client import Client, Refused, failures, json_of, links_of, retry_after_s
from .dns01 import DnsFailed
from .keys import make_request, request_der
from .problems import ORDERING, VALIDATING, Problem, failed, joined
from .renewalinfo import certificate_id
from .resources import Authorisation, Challenge, NotAcme, Order, parse_authorisation, parse_order
from .thread import Talk

POLL_FIRST_S, POLL_FACTOR, POLL_LONGEST_S = 0.1, 1.6, 3.0
MAX_CHAINS = 10
# After these the CA does not look for our answers any more. After all others, and when we are stopped, it may
# be looking right now, or another node may go on with the order: answers stay, for they are the other's too.
DECIDED = frozenset({Failure.VALIDATION, Failure.REFUSED, Failure.REJECTED_NAME, Failure.UNPUBLISHED})
# What a CA may say about ``replaces`` alone; then the order is worth more than its exemption from limits.
ABOUT_REPLACES = frozenset({"alreadyReplaced", "malformed", "unauthorized", "conflict"})
ABOUT_REPLACES_STATUS = (404, 409)


@dataclass(frozen=True, slots=True)
class Answer:
    """A published answer to a challenge. ``place``: token, or name of the record."""

    name: str
    kind: str
    place: str
    value: str
    challenge: Challenge


class OrderRun:
    """Use ``issue`` or ``resume`` once."""

    def __init__(self, client: Client, talk: Talk, steps: Steps, wanted: Wanted, *, use_dns: bool) -> None:
        self._client = client
        self._talk = talk
        self._steps = steps
        self._wanted = wanted
        self._use_dns = use_dns
        self._url = ""

    def issue(self, replaces: bytes) -> Issued:
        key_pem, csr_pem = make_request(self._wanted.key_type, self._wanted.names)
        self._check_profile()
        self._check()
        order = self._new_order(replaces)
        # Even if nobody waits any more: an order that is not in the journal is lost.
        self._talk.run_anyway(lambda: self._steps.journal(self._url, csr_pem, key_pem))
        self._say(f"ordered {self._wanted.label}: {self._url}")
        return self._follow(order, csr_pem, key_pem)

    def resume(self, journal: Journal) -> Issued:
        self._check()
        self._url = journal.order_url
        with failures(ORDERING):
            order = self._ask_order()
        self._say(f"going on with the order of {self._wanted.label}, which is {order.status}: {self._url}")
        return self._follow(order, journal.csr_pem, journal.key_pem)

    # --- beginning ---

    def _check_profile(self) -> None:
        with failures():
            offered = self._client.directory.profiles
        if self._wanted.profile and self._wanted.profile not in offered:
            what = f"it has {', '.join(sorted(offered))}" if offered else "it has none"
            raise IssuingFailed(Failure.REFUSED, f"the CA has no profile {self._wanted.profile!r}: {what}")

    def _new_order(self, replaces: bytes) -> Order:
        payload: dict[str, Any] = {"identifiers": [{"type": "dns", "value": n} for n in self._wanted.names]}
        if self._wanted.profile:
            payload["profile"] = self._wanted.profile
        replaced = _replaced(replaces) if self._client.directory.renewal_info else None
        with failures(ORDERING, self._wanted.names):
            if replaced is not None:
                try:
                    return self._post_order(payload | {"replaces": replaced})
                except Refused as refused:
                    if not _is_about_replaces(refused.problem):
                        raise
                    self._say(f"the CA refuses to count this as a renewal: {refused.problem.text()}")
            return self._post_order(payload)

    def _post_order(self, payload: Mapping[str, Any]) -> Order:
        response = self._client.post(self._client.directory.new_order, payload)
        self._url = response.headers.get("Location", "")
        if not self._url:
            raise NotAcme("an order without a location")
        return parse_order(json_of(response))

    # --- from state to state ---

    def _follow(self, order: Order, csr_pem: bytes, key_pem: bytes) -> Issued:
        while order.status != "valid":
            if order.status == "pending":
                order = self._validate(order)
            elif order.status == "ready":
                order = self._finalize(order, csr_pem)
            elif order.status == "processing":
                order = self._until_not("processing")
            else:
                raise self._ended(order)
        return self._download(order, key_pem)

    def _ended(self, order: Order) -> IssuingFailed:
        """An order that is invalid, or in a state that nobody knows."""
        if order.problem is not None:
            return failed(order.problem, VALIDATING, ordered=self._wanted.names)
        with failures(ORDERING):
            broken = [each for each in self._authorisations(order) if each.status not in ("valid", "pending")]
        if broken:
            return joined([_why_not(each) for each in broken])
        return IssuingFailed(Failure.REFUSED, f"the order is {order.status}, and the CA does not say why")

    def _finalize(self, order: Order, csr_pem: bytes) -> Order:
        self._check()
        self._say("the CA has validated every name; asking for the certificate")
        csr = _base64url(request_der(csr_pem))
        with failures(ORDERING, self._wanted.names):
            try:
                return parse_order(json_of(self._client.post(order.finalize, {"csr": csr})))
            except Refused as refused:
                if refused.problem.kind != "orderNotReady":
                    raise
                self._talk.pause(POLL_FIRST_S)
                return self._ask_order()

    def _until_not(self, status: str) -> Order:
        with failures(ORDERING, self._wanted.names):
            for pause_s in _pauses():
                response = self._client.post(self._url)
                order = parse_order(json_of(response))
                if order.status != status:
                    return order
                self._pause(response, pause_s)
        raise AssertionError("pauses never end")

    def _ask_order(self) -> Order:
        return parse_order(json_of(self._client.post(self._url)))

    # --- validation ---

    def _validate(self, order: Order) -> Order:
        with failures(ORDERING):
            authorisations = self._authorisations(order)
        waiting = {
            url: each
            for url, each in zip(order.authorisations, authorisations, strict=True)
            if each.status == "pending"
        }
        published: list[Answer] = []
        try:
            for each in waiting.values():
                published.append(self._publish(each))
            self._answer(published)
            self._until_validated(list(waiting))
        except IssuingFailed as failure:
            if failure.failure in DECIDED:
                self._withdraw(published)
            raise
        self._withdraw(published)
        return self._until_not("pending")

    def _authorisations(self, order: Order) -> list[Authorisation]:
        return [self._authorisation(url)[0] for url in order.authorisations]

    def _authorisation(self, url: str) -> tuple[Authorisation, requests.Response]:
        response = self._client.post(url)
        return parse_authorisation(json_of(response)), response

    def _publish(self, authorisation: Authorisation) -> Answer:
        self._check()
        with failures(ORDERING):
            answer = self._answer_to(authorisation)
        steps, name = self._steps, answer.name
        try:
            if answer.kind == "dns-01":
                self._talk.run(lambda: steps.publish_dns(answer.place, answer.value))
            else:
                self._talk.run(lambda: steps.publish_http(name, answer.place, answer.value))
        except (BucketUnavailable, DnsFailed) as error:
            raise IssuingFailed(Failure.UNPUBLISHED, str(error), names=(name,)) from error
        self._say(f"published the {answer.kind} answer for {authorisation.label}")
        return answer

    def _answer_to(self, authorisation: Authorisation) -> Answer:
        name = authorisation.name
        if authorisation.label not in self._wanted.names:
            raise NotAcme(f"an authorisation for {authorisation.label[:255]!r}, which is not in the order")
        kind = "dns-01" if self._use_dns or authorisation.is_wildcard else "http-01"
        challenge = authorisation.challenge(kind)
        if challenge is None:
            offered = ", ".join(each.kind for each in authorisation.challenges)
            raise IssuingFailed(
                Failure.REFUSED,
                f"{authorisation.label}: the CA does not offer {kind}, only {offered}",
                names=(authorisation.label,),
            )
        assert self._client.key is not None
        key_authorisation = f"{challenge.token}.{_base64url(self._client.key.thumbprint())}"
        if kind == "http-01":
            return Answer(name, kind, challenge.token, key_authorisation, challenge)
        value = _base64url(hashlib.sha256(key_authorisation.encode("ascii")).digest())
        return Answer(name, kind, f"_acme-challenge.{name}", value, challenge)

    def _answer(self, published: Sequence[Answer]) -> None:
        """Tell the CA that it may look. One that is looking already, for whom we go on, is left alone."""
        for answer in published:
            if answer.challenge.status == "pending":
                self._check()
                with failures(VALIDATING, (answer.name,)):
                    self._client.post(answer.challenge.url, {})

    def _until_validated(self, urls: Sequence[str]) -> None:
        broken = []
        for url in urls:
            with failures(VALIDATING):
                authorisation = self._until_decided(url)
            if authorisation.status != "valid":
                broken.append(_why_not(authorisation))
        if broken:
            raise joined(broken)

    def _until_decided(self, url: str) -> Authorisation:
        for pause_s in _pauses():
            authorisation, response = self._authorisation(url)
            if authorisation.status != "pending":
                return authorisation
            self._pause(response, pause_s)
        raise AssertionError("pauses never end")

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

    # --- the chain ---

    def _download(self, order: Order, key_pem: bytes) -> Issued:
        with failures(ORDERING):
            if not order.certificate:
                raise NotAcme("a valid order without a certificate")
            response = self._client.post(order.certificate)
            chain = response.content
            self._judge(chain, key_pem)
            chain = self._preferred(chain, links_of(response, "alternate")[:MAX_CHAINS])
        self._judge(chain, key_pem)
        self._say(f"the certificate of {self._wanted.label} is here")
        return Issued(chain, key_pem, self._url)

    def _preferred(self, chain: bytes, others: Sequence[str]) -> bytes:
        preferred = self._client.settings.preferred_chain
        if not preferred:
            return chain

        def offered() -> Iterator[bytes]:
            yield chain
            for url in others:
                yield self._client.post(url).content

        try:
            chosen = choose_chain(offered(), preferred)
        except ValueError as error:
            raise NotAcme("another chain that holds no certificate") from error
        if chosen is None:
            self._say(f"no chain leads to {preferred!r}; took the one to {top_issuer(chain)!r}")
        return chosen or chain

    def _judge(self, chain: bytes, key_pem: bytes) -> None:
        try:
            bundle = parse_bundle(chain, key_pem, "the CA's answer")
        except CertificateUnusable as error:
            raise IssuingFailed(Failure.REFUSED, str(error)) from error
        missing = set(self._wanted.names) - {name.lower() for name in bundle.names}
        if missing:
            raise IssuingFailed(
                Failure.REFUSED,
                "names are missing in the certificate: " + ", ".join(sorted(missing)),
                names=sorted(missing),
            )

    # --- small ---

    def _check(self) -> None:
        self._talk.run(self._steps.check)

    def _say(self, text: str) -> None:
        self._talk.say(self._steps.say, text)

    def _pause(self, response: requests.Response, pause_s: float) -> None:
        asked = retry_after_s(response)
        self._talk.pause(pause_s if asked is None else max(asked, POLL_FIRST_S))


def _pauses() -> Iterator[float]:
    pause_s = POLL_FIRST_S
    while True:
        yield pause_s
        pause_s = min(pause_s * POLL_FACTOR, POLL_LONGEST_S)


def _why_not(authorisation: Authorisation) -> IssuingFailed:
    problems = [each.problem for each in authorisation.challenges if each.problem is not None]
    problem = problems[0] if problems else Problem(detail=f"the authorisation is {authorisation.status}")
    found = failed(problem, VALIDATING)
    failure = Failure.VALIDATION if found.failure is Failure.REFUSED else found.failure
    return IssuingFailed(failure, f"{authorisation.label}: {found.text}", names=(authorisation.label,))


def _replaced(chain_pem: bytes) -> str | None:
    return certificate_id(x509.load_pem_x509_certificate(chain_pem)) if chain_pem else None


def _is_about_replaces(problem: Problem) -> bool:
    return problem.kind in ABOUT_REPLACES or problem.status in ABOUT_REPLACES_STATUS


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
