"""The other nodes, by gossip: who leads, challenges to answer, certificates to fetch.

Facts of the kind CERTIFICATE have three forms of keys: a certificate's id, with the fence of its newest
generation; ``want/NAME``, a name that a client waits for somewhere; and ``copy/OBJECT:NUMBER:COUNT``, a part
of a sealed certificate that is not in the bucket (``copies.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cluster.effects import FactChanged
from cluster.facts import DAY_S, Kind
from node.clustering.leading import SORA_TAG
from node.clustering.wire import Unreadable, pack, unpack

from .copies import COPY, Collected, is_copy_of, split

if TYPE_CHECKING:
    from node.clustering.service import Clustering
    from tls.renewing.answers import Answers

log = logging.getLogger("sora.tls.renewing")

WANT: Final = b"want/"
WANT_TTL_S: Final = 30.0
CHALLENGE_TTL_S: Final = 3600.0
GENERATION_TTL_S: Final = 30 * DAY_S
COPY_TTL_S: Final = 7 * DAY_S  # who was down meanwhile still gets it


class GossipCompany:
    """The Company of a node in a cluster. ``published``: another node has, by id and fence. ``handed``: what
    another could not publish, by its key. ``wanted``: a name somebody waits for. ``turned``: this node may
    have another rank now."""

    def __init__(
        self,
        clustering: Clustering,
        answers: Answers,
        *,
        published: Callable[[str, int], None],
        handed: Callable[[str, bytes], None],
        wanted: Callable[[str], None],
        turned: Callable[[], None],
    ) -> None:
        self._clustering = clustering
        self._gossip = clustering.gossip
        self._answers = answers
        self._published = published
        self._handed = handed
        self._wanted = wanted
        self._collected = Collected()
        self._copies: dict[str, tuple[bytes, ...]] = {}  # objects handed on, and the keys of their parts
        self.unreadable = 0
        clustering.listen(Kind.CERTIFICATE, self._heard)
        clustering.listen(Kind.CHALLENGE, self._heard_challenge)
        clustering.leadership.add(lambda _leads: turned())

    @property
    def name(self) -> str:
        return self._gossip.name

    async def catch_up(self) -> None:
        """What was told before this node listened. Raises GossipUnavailable."""
        for kind, hear in ((Kind.CHALLENGE, self._heard_challenge), (Kind.CERTIFICATE, self._heard)):
            for entry in await self._gossip.entries(kind):
                if entry.origin != self.name:
                    hear(FactChanged(kind, entry.origin, entry.key, entry.value, 0.0, entry.written))

    # --- Company ---

    def rank(self) -> int:
        """While nobody leads, as after a start, the first begins after the delay of one rank."""
        leader = self._clustering.leadership.leader
        if leader == self.name:
            return 0
        names = {each.name for each in self._clustering.roster.alive if SORA_TAG in each.tags}
        rest = sorted((names | {self.name}) - {leader})
        return 1 + rest.index(self.name)

    def has_majority(self) -> bool:
        alive = len(self._clustering.roster.others) + 1
        known = sum(1 for each in self._clustering.roster if SORA_TAG in each.tags)
        configured = len(self._clustering.config.cluster.other_peers) + 1
        return 2 * alive > max(known, configured)

    def tell_challenge(self, token: str, key_authorisation: str) -> None:
        entry = {token.encode("ascii"): key_authorisation.encode("ascii")}
        self._gossip.put(Kind.CHALLENGE, entry, CHALLENGE_TTL_S)

    def withdraw_challenge(self, token: str) -> None:
        self._gossip.remove(Kind.CHALLENGE, [token.encode("ascii")])

    def announce(self, wanted_id: str, fence: int) -> None:
        self._gossip.put(Kind.CERTIFICATE, {wanted_id.encode("ascii"): pack([fence])}, GENERATION_TTL_S)

    def hand_on(self, key: str, sealed: bytes) -> None:
        parts = split(key, sealed)
        if not parts:
            log.warning("%s is too large for gossip, %d bytes: it stays on this node", key, len(sealed))
            return
        self._copies[key] = tuple(parts)
        self._gossip.put(Kind.CERTIFICATE, parts, COPY_TTL_S)

    def withdraw_copies(self, wanted_id: str, fence: int) -> None:
        for key in [key for key in self._copies if is_copy_of(key, wanted_id, fence)]:
            self._gossip.remove(Kind.CERTIFICATE, self._copies.pop(key))

    def ask_for(self, name: str) -> None:
        self._gossip.put(Kind.CERTIFICATE, {WANT + name.encode("ascii"): b""}, WANT_TTL_S)

    # --- what is heard ---

    def _heard(self, fact: FactChanged) -> None:
        try:
            if fact.key.startswith(COPY):
                whole = self._collected.add(fact.key, fact.value)
                if whole is not None:
                    self._handed(*whole)
                return
            if fact.value is None:
                return
            if fact.key.startswith(WANT):
                self._wanted(fact.key.removeprefix(WANT).decode("ascii"))
                return
            match unpack(fact.value):
                case [int() as fence]:
                    self._published(fact.key.decode("ascii"), fence)
                case _:
                    raise Unreadable("unknown form")
        except (Unreadable, UnicodeDecodeError) as error:
            self.unreadable += 1
            log.debug("what %s says of a certificate cannot be read: %s", fact.origin, error)

    def _heard_challenge(self, fact: FactChanged) -> None:
        try:
            token = fact.key.decode("ascii")
            if fact.value is None:
                self._answers.remove(token)
            else:
                self._answers.expect()
                self._answers.add(token, fact.value.decode("ascii"))
        except UnicodeDecodeError as error:
            self.unreadable += 1
            log.debug("a challenge of %s cannot be read: %s", fact.origin, error)
