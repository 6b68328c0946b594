"""What a node knows of its cluster, as plain data for ``status``, for commands and for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.messages import State
from cluster.thread import GossipUnavailable

from .keyfile import key_name
from .leading import SORA_TAG

if TYPE_CHECKING:
    from cluster.effects import MemberView

    from .service import Clustering

TOLERATED_SKEW_S = 2.0
STATES = {State.ALIVE: "alive", State.SUSPECT: "suspect", State.DEAD: "failed", State.LEFT: "left"}


async def refreshed(clustering: Clustering) -> str:
    """Brings members and figures up to date; why that cannot be done now, else nothing."""
    try:
        clustering.roster.replace(await clustering.gossip.members())
        clustering.figures = await clustering.gossip.figures()
        clustering.skews = await clustering.gossip.skews()
    except GossipUnavailable as error:
        return f"gossip does not run: {error}"
    return ""


async def summary(clustering: Clustering) -> dict[str, Any]:
    """For ``status``."""
    trouble = await refreshed(clustering)
    return {
        "node": clustering.gossip.name,
        "trouble": trouble,
        "leader": clustering.leadership.leader,
        "is_leader": clustering.leadership.is_ours,
        "state": own_state(clustering),
        "members": members(clustering),
        "drift": dict(clustering.drifting()),
        "gossip": gossip_health(clustering),
    }


def own_state(clustering: Clustering) -> str:
    if clustering.has_left:
        return "left"
    return "draining" if clustering.is_draining else "serving"


def members(clustering: Clustering) -> list[dict[str, Any]]:
    return [_member(clustering, each) for each in clustering.roster]


def _member(clustering: Clustering, member: MemberView) -> dict[str, Any]:
    now = clustering.clock()
    about = clustering.abouts.of(member.name)
    load = about.load if about is not None else None
    is_here = member.is_live
    trip_s = member.round_trip_s
    return {
        "name": member.name,
        "address": str(member.address),
        "state": "leaving" if member.is_leaving and is_here else STATES[member.state],
        "is_self": member.name == clustering.gossip.name,
        "is_leader": member.name == clustering.leadership.leader,
        "kind": "sora" if SORA_TAG in member.tags else "agent",
        "incarnation": member.incarnation,
        "round_trip_ms": None if trip_s is None else round(trip_s * 1000, 3),
        "version": about.version if about is not None else "",
        "state_age_s": round(max(0.0, now - member.since), 3),
        "age_s": round(max(0.0, now - member.joined), 3) if is_here else None,
        "serving": load.state if load is not None and is_here else "",
        "connections": dict(load.connections) if load is not None and is_here else {},
        "sessions": dict(load.sessions) if load is not None and is_here else {},
        "blocks": load.blocks if load is not None and is_here else None,
        "drift": clustering.drifting().get(member.name, []),
        "clock_ahead_s": noticeable(clustering.skews.get(member.name, 0.0)),
        "tags": dict(member.tags),
    }


def noticeable(skew_s: float) -> float:
    """Seconds a clock is ahead; what may come of the way between nodes counts as none."""
    return round(skew_s, 3) if abs(skew_s) > TOLERATED_SKEW_S else 0.0


def gossip_health(clustering: Clustering) -> dict[str, Any]:
    return {
        "figures": dict(clustering.figures),
        "unreadable": clustering.unreadable,
        "dropped": clustering.dropped,
        "directory": {"own": len(clustering.directory), "others": clustering.directory.known},
        "notices": {"told": clustering.notices.told, "heard": clustering.notices.heard_of},
        "keys": [key_name(key) for key in clustering.keys],
    }
