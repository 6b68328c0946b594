"""A name in use by two live nodes: all members are asked which of the two they know, and the minority goes.

Where the votes are even, or there are none, the node with the greater address goes, so that not both do.

A node that comes back at another address at once claims a name that the others still know at the old one,
until they notice that nobody is there. So a claim is told when it lasts longer than that, and voted on when
everyone who hears of it has been told, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..address import Address
from ..delegate import Outlet
from ..dialect import U16, Sequence, blob, malformed, pack, uint
from ..effects import MemberView, NameConflict
from ..instant import Instant
from .codec import address_of
from .messages import SerfType
from .roster import Status

QUERY: Final = "_serf_conflict"
_QUIET_S: Final = 60.0  # between two words about the same name
# A claim of a past life ends when the death is known and the name is free, after some nine seconds.
_LASTS_S: Final = 12.0
_VOTE_AFTER_S: Final = 18.0  # claims are repeated every few seconds
_MAX_NAMES: Final = 256
_NIL: Final = b"\xc0"


def encode_known(member: MemberView | None, status: Status) -> bytes:
    """The answer of a member: whom it knows by the name."""
    if member is None:
        return b"\x06" + _NIL
    vsn = member.vsn if len(member.vsn) == 6 else bytes(6)
    fields: dict[str, object] = {
        "Addr": member.address.packed,
        "Name": member.name,
        "Port": member.address.port,
        "Status": _STATUS_NUMBERS[status],
        "Tags": member.tags,
    }
    for number, key in zip(vsn, _VERSION_KEYS, strict=True):
        fields[key] = number
    return b"\x06" + pack(fields)


_STATUS_NUMBERS: Final = {Status.ALIVE: 1, Status.LEAVING: 2, Status.LEFT: 3, Status.FAILED: 4}
_VERSION_KEYS: Final = (
    "ProtocolMin",
    "ProtocolMax",
    "ProtocolCur",
    "DelegateMin",
    "DelegateMax",
    "DelegateCur",
)


def decode_known(payload: bytes) -> Address | None:
    """None: who answers knows nobody by the name. Raises PacketRejected."""
    if payload[:1] != bytes((SerfType.CONFLICT_RESPONSE,)):
        raise malformed("answer about a name")
    if payload[1:] == _NIL:
        return None
    fields = Sequence(payload[1:]).next_map()
    return address_of(blob(fields, b"Addr", 16), uint(fields, b"Port", U16))


@dataclass(slots=True)
class _Claim:
    """Of a name by another address. All monotonic: when it began, was heard and was told last."""

    since: float
    heard: float
    told: float


@dataclass(slots=True)
class _Vote:
    number: int
    ours: Address
    other: Address
    for_us: int = 0
    answers: int = 0


class Conflicts:
    def __init__(self, outlet: Outlet, own_name: str) -> None:
        self._outlet = outlet
        self._own_name = own_name
        self._claims: dict[tuple[str, Address], _Claim] = {}  # that heard last at the end
        self._vote: _Vote | None = None
        self._voted_at = float("-inf")

    def heard(self, name: str, address: Address, other: Address, at: Instant) -> bool:
        """Whether a vote about our own name is to be held now."""
        key, now = (name, other), at.now
        claim = self._claims.pop(key, None)
        if claim is None or claim.heard <= now - _QUIET_S:
            claim = _Claim(now, now, float("-inf"))
        claim.heard = now
        if len(self._claims) >= _MAX_NAMES:
            del self._claims[next(iter(self._claims))]
        self._claims[key] = claim
        if now - claim.since < _LASTS_S:
            return False
        if claim.told <= now - _QUIET_S:
            claim.told = now
            self._outlet.emit(NameConflict(name, address, other))
        return name == self._own_name and now - claim.since >= _VOTE_AFTER_S and self._may_vote(now)

    def _may_vote(self, now: float) -> bool:
        if self._vote is not None or self._voted_at > now - _QUIET_S:
            return False
        self._voted_at = now
        return True

    def hold(self, number: int, ours: Address, other: Address) -> None:
        """The query with this number is the vote."""
        self._vote = _Vote(number, ours, other)

    def owns(self, number: int) -> bool:
        return self._vote is not None and self._vote.number == number

    def answered(self, payload: bytes) -> None:
        """Raises PacketRejected."""
        vote = self._vote
        known = decode_known(payload)
        if vote is not None and known is not None:
            vote.answers += 1
            vote.for_us += known == vote.ours

    def is_over(self) -> None:
        vote, self._vote = self._vote, None
        if vote is not None and _is_lost(vote):
            self._outlet.emit(NameConflict(self._own_name, vote.ours, vote.other, is_lost=True))


def _is_lost(vote: _Vote) -> bool:
    if vote.for_us * 2 == vote.answers:
        return (vote.ours.packed, vote.ours.port) > (vote.other.packed, vote.other.port)
    return vote.for_us * 2 < vote.answers
