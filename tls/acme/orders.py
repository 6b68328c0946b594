"""One order at a CA from beginning or from where another left it to the chain. In a worker thread.

The states of an order are RFC 8555 §7.1.6: whatever state the CA reports is the next thing to do, so that
going on with somebody's order and going on with our own are the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryptography import x509

from ..bundle import parse_bundle
from ..errors import CertificateUnusable
from ..ports import Failure, Issued, IssuingFailed, Journal, Steps
from ..wanted import Wanted
from .chains import choose_chain, top_issuer
from .client import Client, Refused, base64url, failures, json_of, links_of
from .keys import make_request, request_der
from .polling import FIRST_S, pause, pauses
from .problems import ORDERING, VALIDATING, Problem, failed, joined
from .renewalinfo import certificate_id
from .resources import NotAcme, Order, parse_order
from .thread import Talk
from .validation import Validation

MAX_CHAINS = 10
# What a CA may say about ``replaces`` alone; then the order is worth more than its exemption from limits.
ABOUT_REPLACES = frozenset({"alreadyReplaced", "malformed", "unauthorized", "conflict"})
ABOUT_REPLACES_STATUS = (404, 409)


class OrderRun:
    """Use ``issue`` or ``resume`` once."""

    def __init__(self, client: Client, talk: Talk, steps: Steps, wanted: Wanted, *, use_dns: bool) -> None:
        self._client = client
        self._talk = talk
        self._steps = steps
        self._wanted = wanted
        self._validation = Validation(client, talk, steps, wanted.names, use_dns=use_dns)
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
                self._validation.run(order)
                order = self._until_not("pending")
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
        broken = self._validation.broken(order)
        if broken:
            return joined(broken)
        return IssuingFailed(Failure.REFUSED, f"the order is {order.status}, and the CA does not say why")

    def _finalize(self, order: Order, csr_pem: bytes) -> Order:
        self._check()
        self._say("the CA has validated every name; asking for the certificate")
        csr = base64url(request_der(csr_pem))
        with failures(ORDERING, self._wanted.names):
            try:
                return parse_order(json_of(self._client.post(order.finalize, {"csr": csr})))
            except Refused as refused:
                if refused.problem.kind != "orderNotReady":
                    raise
                self._talk.pause(FIRST_S)
                return self._ask_order()

    def _until_not(self, status: str) -> Order:
        with failures(ORDERING, self._wanted.names):
            for pause_s in pauses():
                response = self._client.post(self._url)
                order = parse_order(json_of(response))
                if order.status != status:
                    return order
                pause(self._talk, response, pause_s)
        raise AssertionError("pauses never end")

    def _ask_order(self) -> Order:
        return parse_order(json_of(self._client.post(self._url)))

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


def _replaced(chain_pem: bytes) -> str | None:
    return certificate_id(x509.load_pem_x509_certificate(chain_pem)) if chain_pem else None


def _is_about_replaces(problem: Problem) -> bool:
    return problem.kind in ABOUT_REPLACES or problem.status in ABOUT_REPLACES_STATUS
