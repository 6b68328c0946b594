"""What one statement about a member does to what this node holds of it.

Theory: each node keeps one opinion of each member. Opinions are ordered by incarnation first, then by state:
dead or left over suspect over alive. Merging is taking the greater one, so the order of arrival does not
matter. Only the member itself raises its incarnation, to contradict what is said of it; so a live process
cannot stay dead.
Invariant: the incarnation held of a name never falls while its row is kept.
To add a statement: a row of ``RULES`` for each that may be held, and a method of ``Merger``.

Deviations from memberlist, all of which its nodes take for ordinary messages:

* Rows of the dead are kept much longer, so a member that comes back with an old incarnation is *told* that it
  is dead, to its address, and jumps above it. An agent forgets the dead instead, and would believe a replayed
  packet.
* A name may move to another address some seconds after it was found dead; for an agent it never may.
* An accusation against an old incarnation of ours is answered with the present one.

References: SWIM (Das, Gupta, Motivala 2002) §4.2; Lifeguard (Dadgar, Phillips, Currey 2018).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import codec
from .address import Address
from .admission import MAX_INCARNATION, admit
from .broadcast import TransmitQueue
from .delegate import Delegate, Outlet
from .effects import Change
from .errors import PacketRejected, Reason
from .members import Member, MemberTable
from .messages import Alive, Dead, MessageType, State, Suspect
from .serf.tags import decode_tags
from .suspicion import Suspicion, timing
from .timers import Timer, Timers

if TYPE_CHECKING:
    import random

    from .api import Settings
    from .awareness import Awareness
    from .instant import Instant

_CONTRADICT_INTERVAL_S = 5.0  # against another node with our name: both would outbid each other for ever
_INSIST_S = 3.0  # after others were seen to hold something else of us
_MAX_TELLERS = 16  # of the members that all hear at once that a dead one is there


class Held(enum.IntEnum):
    """What this node holds of the one a statement is about."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3
    OWN = 4


class Verdict(enum.Enum):
    OLD = "old"  # known, or overtaken
    APPLY = "apply"
    CONFIRM = "confirm"  # the suspicion that is held
    TELL = "tell"  # it lives, and does not know that it is held for dead
    COMPARE = "compare"  # with what we say of ourselves
    REPEAT = "repeat"  # what we say of ourselves
    REFUTE = "refute"


_V = Verdict
_S, _A, _D = MessageType.SUSPECT, MessageType.ALIVE, MessageType.DEAD
# (statement, held): the verdict when its incarnation is lower than, equal to, higher than the one held.
RULES: Final[dict[tuple[MessageType, Held], tuple[Verdict, Verdict, Verdict]]] = {
    (_A, Held.ALIVE): (_V.OLD, _V.OLD, _V.APPLY),
    (_A, Held.SUSPECT): (_V.OLD, _V.OLD, _V.APPLY),
    (_A, Held.DEAD): (_V.TELL, _V.TELL, _V.APPLY),
    (_A, Held.LEFT): (_V.TELL, _V.TELL, _V.APPLY),
    (_A, Held.OWN): (_V.OLD, _V.COMPARE, _V.REFUTE),
    (_S, Held.ALIVE): (_V.OLD, _V.APPLY, _V.APPLY),
    (_S, Held.SUSPECT): (_V.OLD, _V.CONFIRM, _V.CONFIRM),
    (_S, Held.DEAD): (_V.OLD, _V.OLD, _V.OLD),
    (_S, Held.LEFT): (_V.OLD, _V.OLD, _V.OLD),
    (_S, Held.OWN): (_V.REPEAT, _V.REFUTE, _V.REFUTE),
    (_D, Held.ALIVE): (_V.OLD, _V.APPLY, _V.APPLY),
    (_D, Held.SUSPECT): (_V.OLD, _V.APPLY, _V.APPLY),
    (_D, Held.DEAD): (_V.OLD, _V.OLD, _V.OLD),
    (_D, Held.LEFT): (_V.OLD, _V.OLD, _V.OLD),
    (_D, Held.OWN): (_V.REPEAT, _V.REFUTE, _V.REFUTE),
}


@dataclass(slots=True)
class Counts:
    """Since the start."""

    raised: int = 0  # suspicions by this node's own probes
    refuted: int = 0  # suspicions of others that ended well
    confirmed: int = 0  # suspicions that ran out here
    refutations: int = 0  # of what was said of us
    conflicts: int = 0


class Merger:
    """``chase``: called with a member that others suspect, or whose name another node uses."""

    def __init__(
        self,
        settings: Settings,
        table: MemberTable,
        queue: TransmitQueue,
        timers: Timers,
        awareness: Awareness,
        outlet: Outlet,
        delegate: Delegate,
        rng: random.Random,
        chase: Callable[[Member], None],
    ) -> None:
        self.counts = Counts()
        self.is_leaving = False
        self._settings = settings
        self._profile = settings.profile
        self._table = table
        self._own = table.own
        self._queue = queue
        self._timers = timers
        self._awareness = awareness
        self._outlet = outlet
        self._delegate = delegate
        self._rng = rng
        self._chase = chase
        self._contradict_at = 0.0
        self._is_insisting = False

    # --- statements ---

    def alive(self, said: Alive, at: Instant) -> None:
        """Most of what gossip brings is known. Raises PacketRejected for what is not believed."""
        row = self._table.rows.get(said.node)
        if (
            row is not None
            and said.incarnation <= row.incarnation
            and row.is_live
            and said.address == row.address
        ):
            if row is self._own:
                self._heard_of_us(said, at)
            return
        if row is not None and not said.vsn:
            said = Alive(said.incarnation, said.node, said.address, said.meta, row.vsn)
        admit(said, accepts_loopback=self._settings.accepts_loopback)
        if row is self._own:
            self._heard_of_us(said, at)
        elif row is None:
            tags = decode_tags(said.meta)
            self._make_room(at)
            self._accept(self._table.add(said.node, said.address, at.now), said, tags, at)
        else:
            self._merge_alive(row, said, at)

    def suspect(self, said: Suspect, at: Instant) -> None:
        """Raises PacketRejected for what is not believed."""
        row = self._accused(said)
        if row is not None:
            self._merge_suspect(row, said, at)

    def _merge_suspect(self, row: Member, said: Suspect, at: Instant) -> None:
        match self._verdict(_S, row, said.incarnation):
            case Verdict.APPLY:
                self._suspect(row, said, at)
            case Verdict.CONFIRM:
                self._confirm(row, said, at)
            case Verdict.REFUTE | Verdict.REPEAT as verdict:
                self._answer(verdict, said.incarnation, at)

    def dead(self, said: Dead, at: Instant) -> None:
        """Raises PacketRejected for what is not believed."""
        row = self._accused(said)
        if row is None:
            return
        match self._verdict(_D, row, said.incarnation):
            case Verdict.APPLY:
                self._bury(row, said, at)
            case Verdict.REFUTE | Verdict.REPEAT as verdict:
                self._answer(verdict, said.incarnation, at)

    # --- of this node's own accord ---

    def accuse(self, row: Member, incarnation: int, at: Instant) -> None:
        """A probe of ours failed, begun when ``row`` had ``incarnation``. Never refused, so that whoever has
        an incarnation that nobody else may accuse can die all the same."""
        self._merge_suspect(row, Suspect(incarnation, row.name, self._own.name), at)

    def suspicion_due(self, name: str, at: Instant) -> None:
        row = self._table.rows.get(name)
        if row is None or row.suspicion is None or row.suspicion.deadline > at.now:
            return
        self.counts.confirmed += 1
        self._bury(row, Dead(row.incarnation, name, self._own.name), at)

    def announce(self) -> None:
        """Say anew what we say of ourselves."""
        own = self._own
        said = Alive(own.incarnation, own.name, own.address, own.meta, own.vsn)
        self._queue.add(codec.encode(said), own.name)

    def refute(self, accused: int) -> None:
        """Contradict whatever was said of an incarnation."""
        own = self._own
        own.incarnation = max(own.incarnation, accused) + 1
        self._table.changed(own)
        self.counts.refutations += 1
        self._awareness.apply(1)
        self.announce()

    def tell_dead(self, row: Member, address: Address, now: float) -> None:
        """Who is at ``address`` shall know that ``row`` is held for dead, and contradict."""
        self._tell(address, Dead(row.incarnation, row.name, self._own.name), row, now)

    def insist_due(self) -> None:
        self._is_insisting = False
        if not self.is_leaving:
            self.announce()

    def postpone(self, late_s: float) -> None:
        """No suspicion runs out for the time that this node stood still."""
        for row in self._table.ring:
            if row.suspicion is not None:
                row.suspicion.postpone(late_s)
                self._timers.add(row.suspicion.deadline, Timer.SUSPICION, row.name)

    # --- how ---

    def _verdict(self, kind: MessageType, row: Member, incarnation: int) -> Verdict:
        held = Held.OWN if row is self._own else Held(row.state)
        order = (incarnation > row.incarnation) - (incarnation < row.incarnation)
        return RULES[kind, held][order + 1]

    def _accused(self, said: Suspect | Dead) -> Member | None:
        row = self._table.rows.get(said.node)
        if row is None:
            return None
        if said.incarnation >= MAX_INCARNATION:
            raise PacketRejected(Reason.FORGED, f"incarnation {said.incarnation} of {said.node}")
        if type(said) is Suspect and said.accuser == said.node:
            raise PacketRejected(Reason.FORGED, f"{said.node} suspects itself")
        return row

    def _merge_alive(self, row: Member, said: Alive, at: Instant) -> None:
        if said.address != row.address and not self._may_move(row, at.now):
            self._conflict(row, said, at)
            return
        match self._verdict(_A, row, said.incarnation):
            case Verdict.APPLY:
                self._accept(row, said, decode_tags(said.meta), at)
            case Verdict.TELL:
                self.tell_dead(row, said.address, at.now)

    def _make_room(self, at: Instant) -> None:
        """However many names somebody makes up, all that is known of one goes with it."""
        row = self._table.in_the_way()
        if row is not None and self._table.forget(row.name):
            self._delegate.changed(Change.REAPED, row.view(), at)

    def _tell(self, address: Address, said: Alive | Dead, row: Member, now: float) -> None:
        if row.may_be_told(now) and self._rng.random() * self._table.count < _MAX_TELLERS:
            self._outlet.send(address, [codec.encode(said)])

    def _may_move(self, row: Member, now: float) -> bool:
        if row.state is State.LEFT:
            return True
        return row.state is State.DEAD and now - row.since >= self._profile.reclaim_after_s

    def _conflict(self, row: Member, said: Alive, at: Instant) -> None:
        """The one that is known keeps the name. If it is dead in truth, that is found out the sooner; the new
        one hears of it and says again that it is there."""
        self.counts.conflicts += 1
        self._delegate.conflict(row.name, row.address, said.address, at)
        if row.is_live:
            self._chase(row)
            held = Alive(row.incarnation, row.name, row.address, row.meta, row.vsn)
            self._tell(said.address, held, row, at.now)
        else:
            self.tell_dead(row, said.address, at.now)

    def _accept(self, row: Member, said: Alive, tags: dict[str, str], at: Instant) -> None:
        was, before = row.state, (row.meta, row.address)
        row.incarnation = said.incarnation
        row.meta, row.tags, row.vsn = said.meta, tags, said.vsn
        self._table.move(row, said.address)
        row.suspicion = None
        if was is State.ALIVE:
            self._table.changed(row)
        else:
            self._table.set_state(row, State.ALIVE, at.now)
        self._queue.add(codec.encode(said), row.name)
        if was >= State.DEAD:
            self._delegate.changed(Change.JOINED, row.view(), at)
            return
        if was is State.SUSPECT:
            self.counts.refuted += 1
            self._delegate.changed(Change.CLEARED, row.view(), at)
        if (row.meta, row.address) != before:
            self._delegate.changed(Change.UPDATED, row.view(), at)

    def _suspect(self, row: Member, said: Suspect, at: Instant) -> None:
        row.incarnation = said.incarnation
        row.suspicion = Suspicion(timing(self._profile, self._table.count), said.accuser, at.now)
        self._table.set_state(row, State.SUSPECT, at.now)
        self._timers.add(row.suspicion.deadline, Timer.SUSPICION, row.name)
        raw = codec.encode(said)
        self._queue.add(raw, row.name)
        if said.accuser != self._own.name:
            self._chase(row)
        else:
            self.counts.raised += 1
            if self._profile.chases_suspects:
                self._outlet.send(row.address, [raw], node=row.name)
        self._delegate.changed(Change.SUSPECTED, row.view(), at)

    def _confirm(self, row: Member, said: Suspect, at: Instant) -> None:
        """Only the accusers that are members count: one node could make up any number of others."""
        if (
            row.suspicion is None
            or said.accuser not in self._table.rows
            or not row.suspicion.confirm(said.accuser)
        ):
            return
        self._timers.add(row.suspicion.deadline, Timer.SUSPICION, row.name)
        self._queue.add(codec.encode(said), row.name)

    def _bury(self, row: Member, said: Dead, at: Instant) -> None:
        has_left = said.accuser == said.node
        row.incarnation = said.incarnation
        row.suspicion = None
        self._table.set_state(row, State.LEFT if has_left else State.DEAD, at.now)
        self._queue.add(codec.encode(said), row.name)
        self._delegate.changed(Change.LEFT if has_left else Change.FAILED, row.view(), at)

    # --- about ourselves ---

    def _heard_of_us(self, said: Alive, at: Instant) -> None:
        if self.is_leaving:
            return
        if said.incarnation >= MAX_INCARNATION:  # to jump above it would put us out of what is believed
            raise PacketRejected(Reason.FORGED, f"incarnation {said.incarnation} of this node")
        own = self._own
        if said.address != own.address:
            self._heard_of_another(said, at)
            return
        verdict = self._verdict(_A, own, said.incarnation)
        if verdict is Verdict.REFUTE or (
            verdict is Verdict.COMPARE and (said.meta, said.vsn or own.vsn) != (own.meta, own.vsn)
        ):
            self.refute(said.incarnation)

    def _heard_of_another(self, said: Alive, at: Instant) -> None:
        """Our name at another address: a past life of ours, or a node that is there now."""
        self.counts.conflicts += 1
        self._delegate.conflict(said.node, self._own.address, said.address, at)
        self._insist(at.now)
        if said.incarnation >= self._own.incarnation and at.now >= self._contradict_at:
            self._contradict_at = at.now + _CONTRADICT_INTERVAL_S
            self.refute(said.incarnation)

    def _answer(self, verdict: Verdict, accused: int, at: Instant) -> None:
        if self.is_leaving:
            return
        if verdict is Verdict.REFUTE:
            self.refute(accused)
            return
        self._insist(at.now)
        if self._own.name not in self._queue and self._own.may_be_told(at.now):
            self.announce()

    def _insist(self, now: float) -> None:
        """Someone does not take our word yet: say it again after a while."""
        if not self._is_insisting:
            self._is_insisting = True
            self._timers.add(now + _INSIST_S, Timer.INSIST)
