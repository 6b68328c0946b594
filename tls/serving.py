"""Which certificate a client is shown, by the server name that it asks for.

A ``Table`` is immutable; a swap is a new one, and connections keep what they have. Contexts are made when a
client first asks for their name, kept by content over swaps, and at most ``MAX_CONTEXTS`` of them.

``Served`` holds what was offered and judges what is new: a generation that does not parse, is expired or not
yet valid never replaces a working one. One that is early is taken when its time has come.
"""

from __future__ import annotations

import logging
import ssl
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from .bundle import Bundle, verify_bundle
from .contexts import Material, server_context
from .demand import Demand
from .errors import CertificateUnusable
from .names import WILDCARD, above, folded, host_names, matching
from .ports import Generation
from .unserved import Awaited, Unserved

log = logging.getLogger("sora.tls")

MAX_CONTEXTS: Final = 2_000  # of some 17 KB each


@dataclass(frozen=True, slots=True)
class Policy:
    """``names``: the configured ones, folded; of these a certificate may be waited for. ``default``: whose
    certificate clients get that ask for no name, or for one that is not here."""

    names: frozenset[str] = frozenset()
    default: str = ""
    refuses_unknown: bool = False
    serve_expired: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """A generation that is served, and the facts of its leaf."""

    generation: Generation
    bundle: Bundle
    kind: str  # of the key: "ecdsa" or "rsa"

    @property
    def content(self) -> tuple[bytes, bytes]:
        """A secret."""
        return self.generation.chain_pem, self.generation.key_pem


Content = tuple[tuple[bytes, bytes], ...]  # chains and keys


@dataclass(frozen=True, slots=True)
class Shown:
    """What a name is answered with: one certificate, or one for each type of key."""

    held: tuple[Held, ...]

    @property
    def content(self) -> Content:
        return tuple(each.content for each in self.held)

    def in_force(self, now: datetime) -> Shown | None:
        """Without what has expired: clients would be given it by the type of its key though the other is
        good. None: all have."""
        held = tuple(each for each in self.held if not each.bundle.is_expired(now))
        if len(held) == len(self.held):
            return self
        return Shown(held) if held else None


@dataclass(frozen=True, slots=True)
class Table:
    """``exact`` by folded name; ``wildcard`` by the name above the first label."""

    exact: Mapping[str, Shown] = field(default_factory=dict)
    wildcard: Mapping[str, Shown] = field(default_factory=dict)

    def find(self, name: str) -> Shown | None:
        """Of a folded name."""
        return self.exact.get(name) or self.wildcard.get(above(name))

    def shown(self) -> Iterator[Shown]:
        """Once for each name."""
        return chain(self.exact.values(), self.wildcard.values())


def build_table(held: Iterable[Held], now: datetime) -> Table:
    """A name that several generations are for gets the best of each type of key, which what begins after
    ``now`` is only when it is the only one."""
    best: defaultdict[str, dict[str, Held]] = defaultdict(dict)
    for each in held:
        for name in host_names(each.bundle.names):
            rival = best[name].get(each.kind)
            if rival is None or _rank(rival, now) < _rank(each, now):
                best[name][each.kind] = each
    same: dict[tuple[int, ...], Shown] = {}
    exact, wildcard = {}, {}
    for name, kinds in best.items():
        chosen = tuple(kinds[kind] for kind in sorted(kinds))  # ECDSA first
        shown = same.get(tuple(map(id, chosen)))
        if shown is None:
            shown = same[tuple(map(id, chosen))] = Shown(chosen)
        if name.startswith(WILDCARD):
            wildcard[name.removeprefix(WILDCARD)] = shown
        else:
            exact[name] = shown
    return Table(exact, wildcard)


def _rank(held: Held, now: datetime) -> tuple[bool, datetime, int]:
    return not held.bundle.is_early(now), held.bundle.not_after, held.generation.fence


class Served:
    """What one process shows. Not thread-safe; lives on the loop. ``wanted`` is called with a configured name
    that somebody waits for, at most once a second for each."""

    def __init__(
        self,
        policy: Policy,
        *,
        now: Callable[[], datetime],
        wanted: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self.policy = policy  # may be replaced
        self.table = Table()
        self.demand = Demand(wanted)
        self._now = now
        self._held: dict[str, Held] = {}
        self._early: dict[str, Generation] = {}  # kept out by one that works
        self._turns_at: datetime | None = None  # something in the table begins then
        self._contexts: OrderedDict[Content, ssl.SSLContext | None] = OrderedDict()
        self._complaints: dict[str, str] = {}  # by wanted id, so that each is logged once

    # --- what is served ---

    def held(self) -> list[Held]:
        return list(self._held.values())

    def generations(self) -> list[Generation]:
        """Also those that are not in force yet. For other processes of this node only: the keys are in it."""
        return [each.generation for each in self._held.values()] + list(self._early.values())

    def offer(self, generations: Iterable[Generation]) -> dict[str, str]:
        """Swap in those that are better than what is there; why the others were not taken, by wanted id.

        Never raises for what is offered. Takes 0.1 ms for each that is new, 1 ms more where it replaces one.
        """
        refused, taken = {}, 0
        for generation in generations:
            current = self._held.get(generation.wanted_id)
            if current is not None and current.generation == generation:
                continue
            try:
                self._held[generation.wanted_id] = self._judge(generation, current)
                self._complaints.pop(generation.wanted_id, None)
                taken += 1
            except CertificateUnusable as error:
                refused[generation.wanted_id] = str(error)
                self._complain(generation.wanted_id, f"{_stays(current)}: {error}")
        if taken:
            self._swap()
        return refused

    def retain(self, wanted_ids: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(wanted_ids)
        gone = self._held.keys() - kept
        for wanted_id in gone:
            del self._held[wanted_id]
        for wanted_id in self._early.keys() - kept:
            del self._early[wanted_id]
        for wanted_id in self._complaints.keys() - kept:
            del self._complaints[wanted_id]
        if gone:
            self._swap()

    def refresh(self) -> bool:
        """Take what has become valid meanwhile, or is better than what has expired; whether there was
        something."""
        due = [each for each in self._early.values() if self._is_due(each)]
        for each in due:
            del self._early[each.wanted_id]
        has_changed = bool(due) and len(self.offer(due)) < len(due)
        if self._turns_at is None or self._now() < self._turns_at:
            return has_changed
        self._swap()
        return True

    def _is_due(self, early: Generation) -> bool:
        current, now = self._held.get(early.wanted_id), self._now()
        is_working = current is not None and current.bundle.refusal(now) is None
        return not (is_working and read_generation(early).bundle.is_early(now))

    def _judge(self, generation: Generation, current: Held | None) -> Held:
        """Raises CertificateUnusable."""
        label = _label(generation)
        is_working = current is not None and current.bundle.refusal(self._now()) is None
        if current is not None and is_working and generation.fence < current.generation.fence:
            raise CertificateUnusable(f"{label}: it is older than number {current.generation.fence}")
        held = read_generation(generation)
        refusal = held.bundle.refusal(self._now())
        if refusal and is_working:
            if held.bundle.is_early(self._now()):
                self._early[generation.wanted_id] = generation
                refusal = f"it is taken then, as it is {refusal}"
            raise CertificateUnusable(f"{label}: {refusal}")
        if current is not None:
            _try_out(held)
        early = self._early.get(generation.wanted_id)
        if early is not None and early.fence <= generation.fence:
            del self._early[generation.wanted_id]
        if refusal:
            outcome = "it is served because there is no other"
            if held.bundle.is_expired(self._now()) and not self.policy.serve_expired:
                outcome = "TLS is refused for its names"
            log.critical("certificate %s is %s; %s", label, refusal, outcome)
        else:
            log.info("certificate %s is served, valid until %s", label, held.bundle.not_after)
        return held

    def _complain(self, wanted_id: str, text: str) -> None:
        if self._complaints.get(wanted_id) != text:
            self._complaints[wanted_id] = text
            log.error("an offered certificate is not taken, %s", text)

    def _swap(self) -> None:
        now = self._now()
        self.table = build_table(self._held.values(), now)
        early = [each.bundle.not_before for each in self._held.values() if each.bundle.is_early(now)]
        self._turns_at = min(early, default=None)
        in_use = {shown.content for shown in self.table.shown()}
        for content in self._contexts.keys() - in_use:
            del self._contexts[content]
        self.demand.satisfy(lambda name: self.table.find(name) is not None)

    # --- handshakes ---

    def view(self, default: str = "") -> View:
        """For one listener; ``default`` comes before that of the policy."""
        return View(self, default)

    def choose(self, name: str, default: str = "") -> ssl.SSLContext | Awaited | Unserved:
        """As ``CertificateSource.choose``."""
        policy = self.policy
        wanted = folded(name)
        shown = self.table.find(wanted) if wanted else None
        if shown is not None:
            return self._context(shown)
        configured = matching(policy.names, wanted)
        if configured:
            return Awaited(configured)
        if wanted and policy.refuses_unknown:
            return Unserved.UNKNOWN_NAME
        usual = default or policy.default
        shown = self.table.find(usual) or next(self.table.shown(), None)  # any is better than none
        if shown is not None:
            return self._context(shown)
        configured = "" if wanted else matching(policy.names, usual)  # a strange name asks for nothing
        return Awaited(configured) if configured else Unserved.NONE

    async def obtain(self, name: str, default: str = "") -> ssl.SSLContext | Unserved:
        """As ``CertificateSource.obtain``."""
        choice = self.choose(name, default)
        if not isinstance(choice, Awaited):
            return choice
        failure = await self.demand.wait(choice.name)
        if failure is not None:
            return failure
        choice = self.choose(name, default)
        return Unserved.NOT_IN_TIME if isinstance(choice, Awaited) else choice

    def _context(self, shown: Shown) -> ssl.SSLContext | Unserved:
        in_force = shown.in_force(self._now())
        if in_force is None and not self.policy.serve_expired:
            return Unserved.EXPIRED
        content = (in_force or shown).content
        if content in self._contexts:
            self._contexts.move_to_end(content)
            context = self._contexts[content]
        else:
            context = self._contexts[content] = _build((in_force or shown).held)
            if len(self._contexts) > MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        return context or Unserved.UNUSABLE


class View:
    """``CertificateSource`` of one listener on the node's table."""

    def __init__(self, served: Served, default: str) -> None:
        self._served = served
        self._default = folded(default)
        self.choose = partial(served.choose, default=self._default)
        self.obtain = partial(served.obtain, default=self._default)

    @property
    def can_serve(self) -> bool:
        table = self._served.table
        return bool(table.exact or table.wildcard)


def read_generation(generation: Generation) -> Held:
    """Raises CertificateUnusable."""
    label = _label(generation)
    bundle = verify_bundle(generation.chain_pem, generation.key_pem, generation.names, label)
    key = x509.load_pem_x509_certificate(generation.chain_pem).public_key()
    return Held(generation, bundle, "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecdsa")


def _try_out(held: Held) -> None:
    """Raises CertificateUnusable when OpenSSL does not take it."""
    try:
        server_context([_material(held)])
    except ssl.SSLError as error:
        raise CertificateUnusable(f"{_label(held.generation)}: {error}") from error


def _build(held: Sequence[Held]) -> ssl.SSLContext | None:
    """Without those that OpenSSL does not take; None: it takes none of them."""
    try:
        return server_context(map(_material, held))
    except ssl.SSLError as error:
        if len(held) == 1:
            log.error("the certificate %s cannot be served: %s", _label(held[0].generation), error)
            return None
    usable = [each for each in held if _build([each]) is not None]
    return server_context(map(_material, usable)) if usable else None


def _material(held: Held) -> Material:
    return Material(held.generation.chain_pem, held.generation.key_pem)


def _label(generation: Generation) -> str:
    names = ", ".join(generation.names[:3]) or generation.wanted_id
    return f"{names} (number {generation.fence})"


def _stays(current: Held | None) -> str:
    return "there is none" if current is None else f"number {current.generation.fence} stays"
