"""What happens to bytes between two nodes: delay, loss, doubles, disorder, narrow links, cuts."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

Host = str  # an IP address

SYN_RETRY_S = 1.0
RETRY_S = 0.2  # of TCP data


@dataclass
class Network:
    """Knobs may be turned at any time. Probabilities are those of each datagram on its own.

    ``bytes_per_s`` narrows what a host can send, with a queue of at most ``queue_s``; what is over is lost.
    """

    rng: random.Random
    latency_s: float = 0.000_25
    jitter_s: float = 0.000_25
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_s: float = 0.05
    bytes_per_s: dict[Host, float] = field(default_factory=dict)
    queue_s: float = 0.5
    loss_of: dict[Host, float] = field(default_factory=dict)  # more, of what a host sends or is sent
    cut: set[tuple[Host, Host]] = field(default_factory=set)  # (from, to)
    _busy_until: dict[Host, float] = field(default_factory=dict)

    def deliveries(self, source: Host, to: Host, size: int, now: float) -> list[float]:
        """When a datagram arrives: never, once or twice."""
        if self.cut and (source, to) in self.cut:
            return []
        random_ = self.rng.random
        loss = self.loss
        if self.loss_of:
            loss = max(loss, self.loss_of.get(source, 0.0), self.loss_of.get(to, 0.0))
        if loss and random_() < loss:
            return []
        at = now + self.latency_s + self.jitter_s * random_()
        if self.bytes_per_s and source in self.bytes_per_s:
            wait = self._queue(source, size, now)
            if wait > self.queue_s:
                return []
            at += wait
        if self.reordering and random_() < self.reordering:
            at += self.reordering_s * random_()
        if self.duplication and random_() < self.duplication:
            return [at, at + self.reordering_s * random_()]
        return [at]

    def stream_delay(self, source: Host, to: Host, size: int, now: float, *, connects: bool) -> float | None:
        """Until all of it is there; None: never. TCP needs both directions, and sends again what is lost."""
        if self.cut and ((source, to) in self.cut or (to, source) in self.cut):
            return None
        delay = (3 if connects else 1) * (self.latency_s + self.jitter_s * self.rng.random())
        loss = max(self.loss, self.loss_of.get(source, 0.0), self.loss_of.get(to, 0.0))
        if loss:
            delay += self._retries(loss, SYN_RETRY_S) if connects else 0.0
            delay += self._retries(loss, RETRY_S)
        if source in self.bytes_per_s:
            delay += size / self.bytes_per_s[source]
        return delay

    def _retries(self, loss: float, first_s: float) -> float:
        """Both a segment and its acknowledgement must get through; the wait doubles."""
        lost = 1 - (1 - loss) ** 2
        delay = 0.0
        while self.rng.random() < lost and delay < 60.0:
            delay += first_s
            first_s *= 2
        return delay

    def _queue(self, source: Host, size: int, now: float) -> float:
        begin = max(now, self._busy_until.get(source, 0.0))
        if begin - now <= self.queue_s:
            self._busy_until[source] = begin + size / self.bytes_per_s[source]
        return begin - now

    # --- cuts ---

    def partition(self, *groups: Iterable[Host]) -> None:
        """No group hears another."""
        sets = [list(group) for group in groups]
        for i, one in enumerate(sets):
            for other in sets[i + 1 :]:
                self.cut |= {(a, b) for a in one for b in other} | {(b, a) for a in one for b in other}

    def cut_one_way(self, sources: Iterable[Host], targets: Iterable[Host]) -> None:
        targets = list(targets)
        self.cut |= {(a, b) for a in sources for b in targets if a != b}

    def heal(self) -> None:
        """Everything but latency is as it should be again."""
        self.cut.clear()
        self.loss = self.duplication = self.reordering = 0.0
        self.bytes_per_s.clear()
        self.loss_of.clear()
