"""Whether the others are there: one member after the other is probed, and we probe for others.

Theory: one probe at a time. A probe is a row of attempts, each with a sequence number of its own, so that
each round trip is measured truly: the ping, the ping again, pings by way of others and on a stream, again the
ping; any answer ends it. Without one, it fails at its end, and who asked raises a suspicion against the
incarnation that was probed.
Invariant: one probe starts at most once per interval, so the cost at rest does not depend on the number of
members.

A helper that hears nothing says so early (nack), while the asking probe still runs: a missing nack tells the
asking node that it is rather itself that hears nothing.

References: SWIM (Das, Gupta, Motivala 2002) §3.1 and §4.3 (round robin); Lifeguard (Dadgar, Phillips, Currey
2018): nacks, the buddy system (a suspect is pinged with the suspicion); Karn, Partridge (1987) on measuring
what was sent twice.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

from . import codec
from .address import Address
from .awareness import Awareness
from .delegate import Outlet
from .errors import PacketRejected, Reason
from .members import Member, MemberTable
from .messages import Ack, IndirectPing, Nack, Ping, State, Suspect
from .timers import Timer, Timers

if TYPE_CHECKING:
    from .profile import Profile

_SPEAKS_STREAM_PING: Final = 3  # protocol versions of memberlist; what counts is the greatest one understood
_SPEAKS_NACK: Final = 4
MAX_RELAYS: Final = 1_000  # pings sent for others, at one time
_SEQUENCE_LIMIT: Final = 2**32


class Sequence:
    """Numbers of pings, unique for as long as anyone may answer. ``start``: at random, so that answers to a
    past life are not taken for ours."""

    __slots__ = ("_last",)

    def __init__(self, start: int) -> None:
        self._last = start

    def next(self) -> int:
        self._last = (self._last + 1) % _SEQUENCE_LIMIT
        return self._last


class Attempt(enum.Enum):
    PING = "ping"
    ELSEWHERE = "elsewhere"  # by way of others, and on a stream


def attempts(profile: Profile) -> tuple[tuple[float, Attempt], ...]:
    """After the first ping, in order: seconds after the start of the probe, and what."""
    found = [(offset, Attempt.PING) for offset in profile.ping_again_s]
    found.append((profile.probe_timeout_s, Attempt.ELSEWHERE))
    return tuple(sorted(found, key=lambda attempt: (attempt[0], attempt[1].value)))


class Probe:
    """One member being probed. ``incarnation``: what it had at the start."""

    __slots__ = (
        "incarnation",
        "indirect",
        "is_done",
        "member",
        "nacks",
        "nacks_expected",
        "pings",
        "stage",
        "started",
        "ticket",
        "was_suspect",
    )

    def __init__(self, member: Member, now: float) -> None:
        self.member = member
        self.incarnation = member.incarnation
        self.was_suspect = member.state is State.SUSPECT
        self.started = now
        self.stage = 0
        self.pings: dict[int, float] = {}  # sequence number: when it was sent
        self.indirect: int | None = None
        self.nacks_expected = 0
        self.nacks = 0
        self.ticket: int | None = None
        self.is_done = False


class Prober:
    """``deadline``: when ``step`` has something to do."""

    def __init__(
        self,
        profile: Profile,
        table: MemberTable,
        outlet: Outlet,
        awareness: Awareness,
        sequence: Sequence,
    ) -> None:
        self.deadline = math.inf
        self.probes = self.failed = self.acks = self.nacks = self.stream_acks = 0
        self._profile = profile
        self._table = table
        self._outlet = outlet
        self._awareness = awareness
        self._sequence = sequence
        self._attempts = attempts(profile)
        self._probe: Probe | None = None
        self._first: dict[str, None] = {}  # to be probed before others

    def stop(self) -> None:
        self._probe = None
        self.deadline = math.inf

    def chase(self, member: Member) -> None:
        """Probe it next."""
        if self._probe is None or self._probe.is_done or self._probe.member is not member:
            self._first[member.name] = None

    def postpone(self, late_s: float) -> None:
        self.deadline += late_s
        if self._probe is not None:
            self._probe.started += late_s

    def step(self, now: float) -> Probe | None:
        """What is due; a probe that failed."""
        probe = self._probe
        if probe is None or probe.is_done:
            self._begin(now)
            return None
        if probe.stage == len(self._attempts):
            self._probe = None
            self.deadline = now
            return self._judged(probe)
        _, attempt = self._attempts[probe.stage]
        probe.stage += 1
        if attempt is Attempt.PING:
            self._ping(probe, now)
        else:
            self._ask_others(probe)
        self._await(probe)
        return None

    # --- what is heard ---

    def acked(self, seq_no: int, now: float) -> tuple[Member, float | None] | None:
        """The member that answered, and its round trip when the answer was to a ping of ours; None when
        nothing was asked, or not any more."""
        probe = self._probe
        if probe is None or probe.is_done or (seq_no not in probe.pings and seq_no != probe.indirect):
            return None
        self.acks += 1
        self._succeed(probe)
        sent = probe.pings.get(seq_no)
        return probe.member, None if sent is None else max(0.0, now - sent)

    def nacked(self, seq_no: int) -> None:
        probe = self._probe
        if probe is not None and seq_no == probe.indirect and probe.nacks < probe.nacks_expected:
            probe.nacks += 1
            self.nacks += 1

    def stream_acked(self, ticket: int, *, is_ack: bool) -> None:
        probe = self._probe
        if probe is None or probe.is_done or probe.ticket != ticket or not is_ack:
            return
        self.stream_acks += 1
        self._succeed(probe)

    # --- how ---

    def _succeed(self, probe: Probe) -> None:
        probe.is_done = True
        self._awareness.apply(-1)
        self.deadline = self._end(probe)

    def _begin(self, now: float) -> None:
        member = self._next(now)
        if member is None:
            # Nobody is left to be wrong about.
            self._awareness.apply(-1)
            self._probe = None
            self.deadline = now + self._profile.probe_interval_s
            return
        self.probes += 1
        self._probe = probe = Probe(member, now)
        self._ping(probe, now)
        self._await(probe)

    def _next(self, now: float) -> Member | None:
        while self._first:
            member = self._table.rows.get(next(iter(self._first)))
            del self._first[next(iter(self._first))]
            if member is not None and member.is_live:
                return member
        return self._table.next_to_probe(now - self._profile.gossip_to_the_dead_s)

    def _end(self, probe: Probe) -> float:
        return probe.started + self._awareness.scaled(self._profile.probe_interval_s)

    def _await(self, probe: Probe) -> None:
        if probe.stage < len(self._attempts):
            self.deadline = probe.started + self._attempts[probe.stage][0]
        else:
            self.deadline = self._end(probe)

    def _ping(self, probe: Probe, now: float) -> None:
        """A suspect is told so in the same packet. First of the suspicion, then of the ping, so that the ack
        brings its word against it."""
        own, member = self._table.own, probe.member
        seq_no = self._sequence.next()
        probe.pings[seq_no] = now
        parts = [codec.encode(Ping(seq_no, member.name, own.address, own.name))]
        if member.state is State.SUSPECT:
            parts.insert(0, codec.encode(Suspect(member.incarnation, member.name, own.name)))
        self._outlet.send(member.address, parts, node=member.name)

    def _ask_others(self, probe: Probe) -> None:
        own, member = self._table.own, probe.member
        helpers = self._table.pick(
            self._profile.indirect_checks, lambda row: row.state is State.ALIVE and row is not member
        )
        probe.indirect = seq_no = self._sequence.next()
        for helper in helpers:
            wants_nack = helper.vsn[1] >= _SPEAKS_NACK
            probe.nacks_expected += wants_nack
            ask = IndirectPing(seq_no, member.address, member.name, wants_nack, own.address, own.name)
            self._outlet.send(helper.address, [codec.encode(ask)], node=helper.name)
        if member.vsn[1] >= _SPEAKS_STREAM_PING:
            ping = codec.encode(Ping(seq_no, member.name, own.address, own.name))
            probe.ticket = self._outlet.open_stream(member.address, ping, wants_reply=True)

    def _judged(self, probe: Probe) -> Probe:
        """Each nack that did not come says something about us. So does a silent member when there is no one
        to ask, but only once: one that is suspect already is no news."""
        self.failed += 1
        if probe.nacks_expected:
            self._awareness.apply(probe.nacks_expected - probe.nacks)
        elif not probe.was_suspect:
            self._awareness.apply(1)
        return probe


class _Relay:
    """A ping sent for another."""

    __slots__ = ("ask", "requester")

    def __init__(self, ask: IndirectPing, requester: Address) -> None:
        self.ask = ask
        self.requester = requester


class Relays:
    """Pings sent for others, by our own sequence numbers."""

    def __init__(
        self, profile: Profile, own: Member, outlet: Outlet, sequence: Sequence, timers: Timers
    ) -> None:
        self._profile = profile
        self._own = own
        self._outlet = outlet
        self._sequence = sequence
        self._timers = timers
        self._pending: dict[int, _Relay] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def ask(self, ask: IndirectPing, source: Address, now: float) -> None:
        """Raises PacketRejected: OVERLOAD."""
        if len(self._pending) >= MAX_RELAYS:
            raise PacketRejected(Reason.OVERLOAD, f"{MAX_RELAYS} pings for others")
        seq_no = self._sequence.next()
        self._pending[seq_no] = _Relay(ask, ask.source or source)
        self._ping(seq_no, ask)
        if self._profile.ping_again_s:
            self._timers.add(now + self._profile.nack_after_s / 2, Timer.RELAY_AGAIN, seq_no)
        if ask.wants_nack:
            self._timers.add(now + self._profile.nack_after_s, Timer.RELAY_NACK, seq_no)
        self._timers.add(now + self._profile.probe_interval_s, Timer.RELAY_END, seq_no)

    def acked(self, seq_no: int) -> bool:
        """Whether the ack was to one of these; passed on without its payload, which is not for them."""
        relay = self._pending.pop(seq_no, None)
        if relay is None:
            return False
        self._answer(relay, codec.encode(Ack(relay.ask.seq_no)))
        return True

    def due(self, timer: Timer, seq_no: int) -> None:
        relay = self._pending.get(seq_no)
        if relay is None:
            return
        if timer is Timer.RELAY_AGAIN:
            self._ping(seq_no, relay.ask)
        elif timer is Timer.RELAY_NACK:
            self._answer(relay, codec.encode(Nack(relay.ask.seq_no)))
        else:
            del self._pending[seq_no]

    def _ping(self, seq_no: int, ask: IndirectPing) -> None:
        ping = Ping(seq_no, ask.node, self._own.address, self._own.name)
        self._outlet.send(ask.target, [codec.encode(ping)], node=ask.node)

    def _answer(self, relay: _Relay, raw: bytes) -> None:
        self._outlet.send(relay.requester, [raw], node=relay.ask.source_node)
