"""What the agent RPC tells of members, events, queries and logs: maps with the names of an agent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..effects import Change, Effect, MemberChanged, MemberView, QueryAnswered, QueryAsked, UserEvent
from ..messages import State
from ..serf.coordinates import Coordinate

Record = dict[str, Any]

EVENT_OF_CHANGE: Final = {
    Change.JOINED: "member-join",
    Change.LEFT: "member-leave",
    Change.FAILED: "member-failed",
    Change.UPDATED: "member-update",
    Change.REAPED: "member-reap",
}
_VERSIONS: Final = tuple(f"{what}{end}" for what in ("Protocol", "Delegate") for end in ("Min", "Max", "Cur"))
_STATUS: Final = {State.ALIVE: "alive", State.SUSPECT: "alive", State.DEAD: "failed", State.LEFT: "left"}


def status_of(member: MemberView) -> str:
    """An agent does not tell who is suspected."""
    return "leaving" if member.is_leaving and member.is_live else _STATUS[member.state]


def member_record(member: MemberView) -> Record:
    versions = dict(zip(_VERSIONS, member.vsn.ljust(6, b"\0"), strict=False))
    return {
        "Name": member.name,
        "Addr": member.address.packed,
        "Port": member.address.port,
        "Tags": member.tags,
        "Status": status_of(member),
        **versions,
    }


def members_record(members: Iterable[MemberView]) -> Record:
    return {"Members": [member_record(member) for member in members]}


def event_record(effect: Effect) -> Record | None:
    """For a stream of events; None: nothing for one."""
    if isinstance(effect, MemberChanged) and effect.change in EVENT_OF_CHANGE:
        return {"Event": EVENT_OF_CHANGE[effect.change], **members_record([effect.member])}
    if isinstance(effect, UserEvent):
        return {
            "Event": "user",
            "LTime": effect.ltime,
            "Name": effect.name,
            "Payload": effect.payload,
            "Coalesce": effect.may_coalesce,
        }
    if isinstance(effect, QueryAsked):
        return {
            "Event": "query",
            "ID": effect.token,
            "LTime": effect.ltime,
            "Name": effect.name,
            "Payload": effect.payload,
        }
    return None


def answer_record(answer: QueryAnswered) -> Record:
    kind = "done" if answer.is_over else "ack" if answer.payload is None else "response"
    return {"Type": kind, "From": answer.node, "Payload": answer.payload}


def coordinate_record(coordinate: Coordinate | None) -> Record:
    shown = coordinate or Coordinate()
    fields = {
        "Vec": list(shown.vector),
        "Error": shown.error,
        "Adjustment": shown.adjustment,
        "Height": shown.height,
    }
    return {"Coord": fields, "Ok": coordinate is not None}


def stats_record(name: str, members: Sequence[MemberView], figures: Mapping[str, int | float]) -> Record:
    """Texts in groups, as ``serf info`` prints them."""
    counts = dict.fromkeys(("alive", "leaving", "left", "failed"), 0)
    own_tags: Mapping[str, str] = {}
    for member in members:
        counts[status_of(member)] += 1
        if member.name == name:
            own_tags = member.tags
    return {
        "agent": {"name": name},
        "serf": {
            "encrypted": "true",
            "members": str(len(members)),
            **{status: str(count) for status, count in counts.items()},
            **{key: f"{value:.6g}" for key, value in figures.items() if isinstance(value, float)},
            **{key: str(value) for key, value in figures.items() if isinstance(value, int)},
        },
        "tags": dict(own_tags),
    }
