"""Membership as a pure machine: SWIM with Lifeguard, as memberlist's protocol 2 has it on the wire.

Tour: ``members`` has the rows, ``admission`` what is believed at all, ``merging`` what a statement does to a
row, ``suspicion`` and ``awareness`` the arithmetic of Lifeguard, ``probing`` the failure detector,
``pushpull`` joining and repair, ``broadcast`` the queue of news, ``timers`` the heap. This module ties them
together and has what is left: pings and acks, rounds of gossip, leaving, and standing still.

Invariants: nothing here reads a clock or draws numbers of its own; containers are ordered, so a seed and the
same input give the same output; all that others can make grow has a bound.
To add a message: ``messages``, ``codec``, a row of ``_HANDLERS``.

References: SWIM (Das, Gupta, Motivala 2002); Lifeguard (Dadgar, Phillips, Currey 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from . import codec
from .address import Address
from .admission import is_loopback, is_reachable
from .awareness import Awareness
from .broadcast import TransmitQueue, retransmissions
from .delegate import Delegate, Outlet
from .effects import Change, MemberView
from .errors import PacketRejected, Reason
from .members import Member, MemberTable
from .merging import Merger
from .messages import Ack, Alive, Dead, IndirectPing, Message, Nack, Ping, PushPull, State, Suspect, User
from .probing import Prober, Relays
from .probing import Sequence as SequenceNumbers
from .pushpull import PushPulls
from .serf.tags import decode_tags
from .timers import Timer, Timers

if TYPE_CHECKING:
    import random

    from .api import Settings
    from .instant import Instant

_LEAVE_TOLD_S: Final = 5.0  # how long at most our leaving is spread
_LEAVE_LINGER_S: Final = 1.0  # after that we go on answering for those who have not heard
_LEAVE_LOOK_S: Final = 0.1
_CHASERS: Final = 8  # of those who hear of a suspicion, so many probe the suspect at once, on average
_MAX_LATE_SCORE: Final = 3


class Swim:
    """``receive`` and its like raise PacketRejected for what is dropped."""

    def __init__(self, settings: Settings, outlet: Outlet, delegate: Delegate, rng: random.Random) -> None:
        self._settings = settings
        self._profile = profile = settings.profile
        self._outlet = outlet
        self._delegate = delegate
        self._rng = rng
        self._own = own = Member(settings.name, settings.advertise, 0.0)
        self._table = table = MemberTable(own, rng)
        self._timers = timers = Timers()
        self._awareness = Awareness(profile.awareness_max)
        self._queue = TransmitQueue(self.retransmit_limit)
        numbers = SequenceNumbers(rng.getrandbits(31))
        self._prober = Prober(profile, table, outlet, self._awareness, numbers)
        self._relays = Relays(profile, own, outlet, numbers, timers)
        self._merger = Merger(
            settings, table, self._queue, timers, self._awareness, outlet, delegate, rng, self._chase
        )
        self._push_pulls = PushPulls(settings, table, self._merger, timers, outlet, delegate, rng)
        self._gossip_at = 0.0
        self._ran_until = -math.inf  # up to when standing still was dealt with
        self._late_at = -math.inf
        self._late_times = 0
        self._left_told_until = math.inf
        self._has_left = False
        self.own_name = settings.name

    # --- what comes in ---

    def start(self, at: Instant) -> None:
        own = self._own
        own.meta = self._delegate.meta()
        own.tags = decode_tags(own.meta)
        own.incarnation = 1
        self._table.move(own, own.address)
        self._table.set_state(own, State.ALIVE, at.now)
        self._merger.announce()
        self._ran_until = at.now
        self._prober.deadline = at.now + self._rng.random() * self._profile.probe_interval_s
        self._push_pulls.start(at.now)
        self._delegate.changed(Change.JOINED, own.view(), at)

    def receive(self, message: Message, source: Address, at: Instant) -> None:
        """One message of a datagram. Raises PacketRejected."""
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise PacketRejected(Reason.UNKNOWN_TYPE, f"{type(message).__name__} in a datagram")
        handler(self, message, source, at)

    def receive_push_pull(self, asked: PushPull, source: Address, at: Instant) -> PushPull:
        """Raises PacketRejected: nothing was merged, and there is no reply."""
        return self._push_pulls.receive(asked, source, at)

    def receive_ping_stream(self, ping: Ping, at: Instant) -> Ack:
        """Raises PacketRejected when it is for another node."""
        self._check_for_us(ping)
        return Ack(ping.seq_no)

    def stream_reply(
        self, ticket: int, reply: PushPull | Ack | None, at: Instant, error: str = "no answer"
    ) -> None:
        """``error``: why there is no reply."""
        push_pull = reply if isinstance(reply, PushPull) else None
        if self._push_pulls.replied(ticket, push_pull, at, error or "an answer to something else"):
            return
        self._prober.stream_acked(ticket, is_ack=isinstance(reply, Ack))

    # --- time ---

    def tick(self, at: Instant) -> None:
        due = min(self._timers.deadline, self._prober.deadline)
        if due <= at.now:
            self.loop_was_late(at.now - due, at)
        while self._prober.deadline <= at.now:
            failed = self._prober.step(at.now)
            if failed is not None:
                self._merger.accuse(failed.member, failed.incarnation, at)
        while (timer := self._timers.pop(at.now)) is not None:
            _TIMERS[timer[0]](self, timer[1], at)
        if self._gossip_at <= at.now and self._has_gossip():
            self._gossip(at.now)

    def next_deadline(self) -> float:
        """Of a round of gossip only while there is something to tell: the first news goes out at once."""
        due = min(self._timers.deadline, self._prober.deadline)
        return min(due, self._gossip_at) if self._has_gossip() else due

    def loop_was_late(self, late_s: float, at: Instant) -> None:
        """This node stood still: what it did not hear meanwhile says nothing about others. The same time is
        not counted twice."""
        late_s = min(late_s, at.now - self._ran_until)
        if late_s <= self._profile.probe_timeout_s / 2:
            return
        self._ran_until = at.now
        self._late_times += 1
        if at.now - self._late_at >= self._profile.probe_interval_s:
            self._late_at = at.now
            self._awareness.apply(min(_MAX_LATE_SCORE, 1 + int(late_s / self._profile.probe_interval_s)))
        # What came meanwhile waits to be read: give it a moment.
        self._prober.postpone(late_s + self._profile.probe_timeout_s)
        self._merger.postpone(late_s + self._profile.probe_timeout_s)

    # --- commands ---

    def join(self, addresses: Iterable[Address], at: Instant) -> None:
        """Once; one ``Joined`` for each."""
        self._push_pulls.join(addresses, at)

    def set_peers(self, addresses: Iterable[Address], at: Instant) -> None:
        """Instead of those before: new ones are joined now, and all whenever they are no members."""
        if not self._merger.is_leaving:
            self._push_pulls.set_peers(addresses, at)

    def leave(self, at: Instant) -> None:
        """Say so; go on answering until ``has_left``."""
        if self._merger.is_leaving:
            return
        self._merger.is_leaving = True
        self._prober.stop()
        own = self._own
        self._table.set_state(own, State.LEFT, at.now)
        self._queue.add(codec.encode(Dead(own.incarnation, own.name, own.name)), own.name)
        self._left_told_until = at.now + _LEAVE_TOLD_S
        self._timers.add(at.now, Timer.LEAVE)
        self._delegate.changed(Change.LEFT, own.view(), at)

    @property
    def has_left(self) -> bool:
        return self._has_left

    def set_meta_changed(self, at: Instant) -> None:
        """Ask the delegate for its tags anew, and announce them."""
        own = self._own
        own.meta = self._delegate.meta()
        own.tags = decode_tags(own.meta)
        own.incarnation += 1
        self._table.changed(own)
        self._merger.announce()
        self._delegate.changed(Change.UPDATED, own.view(), at)

    def retransmit_limit(self) -> int:
        """How many packets a broadcast goes along with."""
        return retransmissions(self._profile, self._table.count)

    def force_dead(self, name: str, at: Instant) -> None:
        """A dead member has left after all."""
        row = self._table.rows.get(name)
        if row is not None and row.state is State.DEAD:
            self._table.set_state(row, State.LEFT, at.now)

    def forget(self, name: str) -> None:
        """A dead or left member, as if never heard of."""
        self._table.forget(name)

    # --- to piggyback ---

    def broadcasts(self, room: int, overhead: int) -> list[bytes]:
        """Encoded statements about members for one packet."""
        return self._queue.take(room, overhead)

    # --- to look at ---

    def get(self, name: str) -> MemberView | None:
        return self._table.get(name)

    def by_address(self, address: Address) -> MemberView | None:
        return self._table.by_address(address)

    def alive(self) -> Sequence[MemberView]:
        return self._table.alive()

    def __iter__(self) -> Iterator[MemberView]:
        return iter(self._table)

    @property
    def count(self) -> int:
        return self._table.count

    @property
    def is_slow(self) -> bool:
        return self._awareness.is_slow

    def figures(self) -> dict[str, int | float]:
        """As in ``cluster/README.md``."""
        prober, counts, pushes = self._prober, self._merger.counts, self._push_pulls
        return {
            **{f"members_{state.name.lower()}": self._table.in_state(state) for state in State},
            "probes": prober.probes,
            "probes_failed": prober.failed,
            "probe_acks": prober.acks,
            "probe_nacks": prober.nacks,
            "probe_tcp_fallbacks": prober.stream_acks,
            "suspicions_raised": counts.raised,
            "suspicions_refuted": counts.refuted,
            "suspicions_confirmed": counts.confirmed,
            "refutations": counts.refutations,
            "name_conflicts": counts.conflicts,
            "awareness": self._awareness.score,
            "loop_late": self._late_times,
            "broadcasts_queued": len(self._queue),
            "broadcasts_dropped": self._queue.dropped,
            "push_pulls": pushes.done,
            "push_pulls_failed": pushes.failed,
            "records_refused": pushes.records_refused,
        }

    # --- messages ---

    def _receive_ping(self, ping: Ping, source: Address, at: Instant) -> None:
        self._check_for_us(ping)
        ack = Ack(ping.seq_no, self._delegate.ack_payload(ping.source_node, at))
        self._outlet.send(ping.source or source, [codec.encode(ack)], node=ping.source_node)
        asker = self._table.rows.get(ping.source_node)
        if asker is not None and not asker.is_live and asker.address == (ping.source or source):
            self._merger.tell_dead(asker, asker.address, at.now)

    def _receive_indirect_ping(self, ask: IndirectPing, source: Address, at: Instant) -> None:
        ip = ask.target.ip
        if not is_reachable(ip) or (is_loopback(ip) and not self._settings.accepts_loopback):
            raise PacketRejected(Reason.FORGED, f"a ping for {ask.target}")
        self._relays.ask(ask, source, at.now)

    def _receive_ack(self, ack: Ack, source: Address, at: Instant) -> None:
        if self._relays.acked(ack.seq_no):
            return
        answered = self._prober.acked(ack.seq_no, at.now)
        if answered is None:
            return
        member, round_trip_s = answered
        if round_trip_s is not None:
            member.heard_in(round_trip_s)
            self._delegate.ping_done(member.name, round_trip_s, ack.payload, at)

    def _receive_nack(self, nack: Nack, source: Address, at: Instant) -> None:
        self._prober.nacked(nack.seq_no)

    def _receive_alive(self, said: Alive, source: Address, at: Instant) -> None:
        self._merger.alive(said, at)

    def _receive_suspect(self, said: Suspect, source: Address, at: Instant) -> None:
        self._merger.suspect(said, at)

    def _receive_dead(self, said: Dead, source: Address, at: Instant) -> None:
        self._merger.dead(said, at)

    def _receive_user(self, said: User, source: Address, at: Instant) -> None:
        self._delegate.receive_user(said.raw, source, at, is_stream=False)

    def _check_for_us(self, ping: Ping) -> None:
        """A ping without a name is from an old node, which takes any answer."""
        if ping.node and ping.node != self.own_name:
            raise PacketRejected(Reason.STALE, f"a ping for {ping.node}")

    # --- timers ---

    def _suspicion_due(self, about: str | int, at: Instant) -> None:
        self._merger.suspicion_due(str(about), at)

    def _relay_due(self, timer: Timer, about: str | int) -> None:
        self._relays.due(timer, int(about))

    def _push_pull_due(self, at: Instant) -> None:
        if not self._merger.is_leaving:
            self._push_pulls.due(at)

    def _rejoin_due(self, at: Instant) -> None:
        if not self._merger.is_leaving:
            self._push_pulls.rejoin_due(at)

    def _leave_due(self, at: Instant) -> None:
        """First until it is told, then until nobody should ask any more."""
        if self._left_told_until == -math.inf or self._table.in_state(State.ALIVE) == 0:
            self._has_left = True
        elif self.own_name not in self._queue or at.now >= self._left_told_until:
            self._left_told_until = -math.inf
            self._timers.add(at.now + _LEAVE_LINGER_S, Timer.LEAVE)
        else:
            self._timers.add(at.now + _LEAVE_LOOK_S, Timer.LEAVE)

    def _chase(self, member: Member) -> None:
        if self._profile.chases_suspects and self._rng.random() * self._table.count < _CHASERS:
            self._prober.chase(member)

    # --- gossip ---

    def _has_gossip(self) -> bool:
        return bool(self._table.ring) and (len(self._queue) > 0 or self._delegate.has_broadcasts())

    def _gossip(self, now: float) -> None:
        """Also to those that died lately: whoever is held for dead wrongly hears of it so."""
        self._gossip_at = now + self._profile.gossip_interval_s
        lately = now - self._profile.gossip_to_the_dead_s
        for member in self._table.pick(
            self._profile.gossip_nodes, lambda row: row.is_live or row.since >= lately
        ):
            self._outlet.send(member.address, [], node=member.name)


_HANDLERS: Final[dict[type[Any], Callable[[Swim, Any, Address, Instant], None]]] = {
    Ping: Swim._receive_ping,
    IndirectPing: Swim._receive_indirect_ping,
    Ack: Swim._receive_ack,
    Nack: Swim._receive_nack,
    Alive: Swim._receive_alive,
    Suspect: Swim._receive_suspect,
    Dead: Swim._receive_dead,
    User: Swim._receive_user,
}
_TIMERS: Final[dict[Timer, Callable[[Swim, str | int, Instant], None]]] = {
    Timer.SUSPICION: Swim._suspicion_due,
    Timer.RELAY_AGAIN: lambda swim, about, at: swim._relay_due(Timer.RELAY_AGAIN, about),
    Timer.RELAY_NACK: lambda swim, about, at: swim._relay_due(Timer.RELAY_NACK, about),
    Timer.RELAY_END: lambda swim, about, at: swim._relay_due(Timer.RELAY_END, about),
    Timer.PUSH_PULL: lambda swim, about, at: swim._push_pull_due(at),
    Timer.REJOIN: lambda swim, about, at: swim._rejoin_due(at),
    Timer.LEAVE: lambda swim, about, at: swim._leave_due(at),
    Timer.INSIST: lambda swim, about, at: swim._merger.insist_due(),
}
