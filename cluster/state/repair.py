"""Anti-entropy: two nodes whose digests differ find out which maps they know to different points, and send
each other what is missing, in both directions.

    digests differ      A: Vector, or with many maps Summary      (at most once a second for a peer)
    Summary heard       B: Vector of the buckets that differ
    Vector heard        Delta of what the other lacks; Want of what we lack
    Want heard          Delta

Small answers go as datagrams, large ones as streams of ``STREAM_BYTES`` each, at most ``MAX_STREAMS`` at a
time; after such a one a peer is left alone until it had the time to take it in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..instant import Instant
from .codec import Delta, Element, Lane, Page, Summary, Vector, Want, encode, page_bytes, pages, range_of
from .known import Span
from .mailer import MAX_DATAGRAM_BYTES, Mailer
from .peers import Peers
from .records import BUCKETS, EpochMap
from .store import Store

INTERVAL_S: Final = 1.0  # between exchanges with one peer
AFTER_STREAM_S: Final = 2.0
SERVE_S: Final = 0.1  # between answers of one kind to one peer
MAX_PLAIN: Final = 24  # maps whose vector is not longer than a summary
MAX_DATAGRAMS: Final = 4
STREAM_BYTES: Final = 256 * 1024
MAX_STREAMS: Final = 8
HURRY_TO: Final = 3
HURRY_S: Final = 0.1
ALL_BUCKETS: Final = 2**BUCKETS - 1
_ELEMENT_BYTES: Final = 1 + 3 + 9 + 9 + 3
_SPAN_BYTES: Final = 1 + 9 + 9

Missing = tuple[EpochMap, list[Span]]


class Repair:
    def __init__(self, store: Store, peers: Peers, mailer: Mailer) -> None:
        self._store = store
        self._peers = peers
        self._mailer = mailer
        self._not_before: dict[str, float] = {}
        self._hurry_after = 0.0
        self._served: dict[tuple[str, str], float] = {}
        self._streaming: dict[str, float] = {}  # until when a peer takes in what it got

    # --- beginning ---

    def heard_digest(self, name: str, digest: bytes, at: Instant) -> None:
        if digest != self._store.digest.total().to_bytes(8, "big"):
            self._begin(name, at)

    def hurry(self, at: Instant) -> None:
        """There is more new than gossip carries: compare with some members now."""
        if at.now >= self._hurry_after:
            self._hurry_after = at.now + HURRY_S
            for name in self._peers.some(HURRY_TO):
                self._begin(name, at)

    def opening(self, at: Instant) -> bytes:
        """The first message of an exchange, for whoever reads it."""
        homes = self._homes(ALL_BUCKETS)
        if len(homes) <= MAX_PLAIN:
            return encode(self._vector(ALL_BUCKETS, homes, at))
        return encode(Summary(*self._mailer.heading(at), self._store.digest.summary()))

    def forget(self, name: str) -> None:
        self._not_before.pop(name, None)
        self._streaming.pop(name, None)
        for kind in ("summary", "vector", "want"):
            self._served.pop((name, kind), None)

    def begin(self, name: str, at: Instant) -> None:
        """With one that is new here."""
        self._begin(name, at)

    def _begin(self, name: str, at: Instant) -> None:
        if self._not_before.get(name, 0.0) <= at.now and name in self._peers:
            self._not_before[name] = at.now + INTERVAL_S
            self._store.counted["exchanges"] += 1
            self._mailer.send_raw(name, self.opening(at))

    # --- answering ---

    def on_summary(self, message: Summary, at: Instant) -> None:
        name = message.sender
        mask = self._store.digest.differing(message.buckets)
        if not mask or not self._may_serve(name, "summary", at):
            return
        parts = self._split(mask)
        if len(parts) > MAX_DATAGRAMS:
            parts = [mask]
        for part in parts:
            self._mailer.send(name, self._vector(part, self._homes(part), at))

    def on_vector(self, message: Vector, at: Instant, *, by_stream: bool = False) -> None:
        """``by_stream``: it came on one, so answer on one. Where no datagrams pass, that is all there is."""
        name = message.sender
        if name not in self._peers:
            return
        theirs = {(element.owner, element.epoch): element for element in message.elements}
        missing = []
        for home in self._homes(message.mask):
            element = theirs.get((home.owner.name, home.epoch))
            spans = home.known.beyond(element.known, element.ahead) if element else home.known.beyond(0, ())
            if spans and not home.is_partial:
                missing.append((home, spans))
        wanted = [element for element in message.elements if self._is_behind(element)]
        if missing or wanted:
            self._not_before[name] = max(self._not_before.get(name, 0.0), at.now + INTERVAL_S)
        if wanted:
            elements = [self._own_element(element) for element in wanted]
            self._mailer.send(name, Want(*self._mailer.heading(at), elements), by_stream=by_stream)
        if missing and self._may_serve(name, "vector", at):
            self._answer(name, missing, at, by_stream=by_stream)

    def on_want(self, message: Want, at: Instant) -> None:
        if not self._may_serve(message.sender, "want", at):
            return
        missing = []
        for element in message.elements:
            home = self._home(element)
            if home is not None and not home.is_partial:
                missing.append((home, home.known.beyond(element.known, element.ahead)))
        self._answer(message.sender, missing, at)

    def _may_serve(self, name: str, kind: str, at: Instant) -> bool:
        """A peer that asks in a circle costs no more than this. Vectors may come in several parts."""
        if name not in self._peers:
            return False
        level = max(self._served.get((name, kind), 0.0), at.now)
        if level > at.now + SERVE_S * (MAX_DATAGRAMS * 2 - 1):
            self._store.counted["unserved"] += 1
            return False
        self._served[name, kind] = level + SERVE_S
        return True

    # --- what is known ---

    def _homes(self, mask: int) -> list[EpochMap]:
        """The maps in these buckets that matter."""
        return [
            home
            for owner in self._store.owners.values()
            for home in owner.epochs.values()
            if mask >> home.bucket & 1 and home.matters
        ]

    def _home(self, element: Element) -> EpochMap | None:
        owner = self._store.owners.get(element.owner)
        return owner.epochs.get(element.epoch) if owner is not None else None

    def _own_element(self, element: Element) -> Element:
        home = self._home(element)
        if home is None:
            return Element(element.owner, element.epoch, 0)
        return _element(home)

    def _is_behind(self, element: Element) -> bool:
        home = self._home(element)
        return home is None or home.known.lacks(element.known, element.ahead)

    def _vector(self, mask: int, homes: Iterable[EpochMap], at: Instant) -> Vector:
        elements = [_element(home) for home in homes]
        return Vector(*self._mailer.heading(at), mask, elements)

    def _split(self, mask: int) -> list[int]:
        """Masks whose vectors fit into datagrams."""
        sizes = [0] * BUCKETS
        for home in self._homes(mask):
            sizes[home.bucket] += len(home.prefix) + _ELEMENT_BYTES + len(home.known.ahead) * _SPAN_BYTES
        masks, room = [0], self._mailer.room - 16
        left = room
        for bucket in range(BUCKETS):
            if mask >> bucket & 1:
                if sizes[bucket] > left and masks[-1]:
                    masks.append(0)
                    left = room
                masks[-1] |= 1 << bucket
                left -= sizes[bucket]
        return masks

    # --- sending what is missing ---

    def _answer(self, name: str, missing: list[Missing], at: Instant, *, by_stream: bool = False) -> None:
        total = sum(
            record.size
            for home, spans in missing
            for after, upto in spans
            for record in home.between(after, upto)
        )
        is_large = total > MAX_DATAGRAMS * MAX_DATAGRAM_BYTES
        if is_large and at.now < self._streaming.get(name, 0.0):
            self._store.counted["unserved"] += 1
            return
        room = STREAM_BYTES if is_large or by_stream else self._mailer.room
        batches = self._batches(missing, room)
        for batch in batches[: MAX_STREAMS if is_large else None]:
            body = Delta(*self._mailer.heading(at), Lane.REPAIR, [range_of(page, at.now) for page in batch])
            self._store.counted["repair_bytes"] += self._mailer.send(name, body, by_stream=by_stream)
        if is_large:
            self._not_before[name] = self._streaming[name] = at.now + AFTER_STREAM_S

    def _batches(self, missing: list[Missing], room: int) -> list[list[Page]]:
        """Ranges put together into messages of at most ``room`` bytes."""
        batches: list[list[Page]] = []
        left = 0
        for home, spans in missing:
            for after, upto in spans:
                for page in pages(home, after, upto, room):
                    size = page_bytes(page)
                    if not batches or size > left:
                        batches.append([])
                        left = room
                    batches[-1].append(page)
                    left -= size
        return batches


def _element(home: EpochMap) -> Element:
    return Element(home.owner.name, home.epoch, home.known.upto, home.known.ahead)
