"""The ``cluster.*`` commands of the control socket."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from cluster.messages import State
from cluster.thread import GossipUnavailable
from node.control import Arguments, ControlRefused, Handler, text_argument

from . import report
from .doctor import Doctor
from .keyfile import key_name
from .keys import Answer, BadKey, ClusterKeys, new_key, parse_key
from .leading import SORA_TAG

if TYPE_CHECKING:
    from cluster.effects import MemberView

    from .service import Clustering

NO_CLUSTER: Final = "this node is in no cluster: cluster.enabled is false in its configuration"

Find = Callable[[], "Clustering | None"]


def cluster_commands(find: Find) -> dict[str, Handler]:
    """``find``: None while the node is in no cluster."""
    commands = ClusterCommands(find)
    return {
        "cluster.members": commands.members,
        "cluster.keys": commands.keys,
        "cluster.events": commands.events,
        "cluster.doctor": commands.doctor,
        "cluster.leave": commands.leave,
        "cluster.force_leave": commands.force_leave,
    }


class ClusterCommands:
    def __init__(self, find: Find) -> None:
        self._find = find
        self._key_steps: dict[str, Callable[[ClusterKeys, Arguments], Awaitable[dict[str, Any]]]] = {
            "list": _list_keys,
            "install": _install_key,
            "use": _use_key,
            "remove": _remove_key,
            "rotate": _rotate_keys,
        }

    def _clustering(self) -> Clustering:
        clustering = self._find()
        if clustering is None:
            raise ControlRefused("not_found", NO_CLUSTER)
        return clustering

    async def members(self, _arguments: Arguments) -> object:
        return await report.summary(self._clustering())

    async def events(self, arguments: Arguments) -> object:
        """Those after number ``after``, at most a thousand are kept."""
        after = arguments.get("after", 0)
        if isinstance(after, bool) or not isinstance(after, int):
            raise ControlRefused("usage", "after must be a number")
        return {"events": [asdict(each) for each in self._clustering().roster.events(after)]}

    async def doctor(self, _arguments: Arguments) -> object:
        return await Doctor(self._clustering()).examine()

    async def leave(self, _arguments: Arguments) -> object:
        """Mail is served on; the others forget this node until it is started again."""
        clustering = self._clustering()
        await clustering.hand_over()
        await clustering.leave()
        return {"node": clustering.gossip.name}

    async def force_leave(self, arguments: Arguments) -> object:
        """``node`` that has failed counts as one that has left; ``prune`` true forgets it at once."""
        clustering = self._clustering()
        name = text_argument(arguments, "node")
        member = clustering.roster.get(name)
        if member is None:
            raise ControlRefused("not_found", f"there is no member {name!r}")
        if member in clustering.roster.alive:
            raise ControlRefused("usage", f"{name} is alive: use 'sora-node cluster leave' on it")
        try:
            is_done = await clustering.gossip.force_leave(name, prune=arguments.get("prune") is True)
        except GossipUnavailable as error:
            raise ControlRefused("busy", f"gossip does not run: {error}") from error
        if not is_done:
            raise ControlRefused("not_found", f"there is no member {name!r}")
        return {"node": name}

    async def keys(self, arguments: Arguments) -> object:
        """``step``: list, install, use, remove or rotate; ``key`` as the step needs it."""
        clustering = self._clustering()
        step = self._key_steps.get(text_argument(arguments, "step", "list"))
        if step is None:
            raise ControlRefused("usage", f"step is one of {', '.join(self._key_steps)}")
        try:
            answer = await step(ClusterKeys(clustering), arguments)
        except BadKey as error:
            raise ControlRefused("usage", str(error)) from error
        except GossipUnavailable as error:
            raise ControlRefused("busy", f"gossip does not run: {error}") from error
        return {
            "own": [key_name(key) for key in clustering.keys],
            "absent": [each.name for each in clustering.roster if _is_away(each)],
            **answer,
        }


def _is_away(member: MemberView) -> bool:
    """A node of ours that misses what is done to the keys now, also one that was stopped in order."""
    return member.state in (State.DEAD, State.LEFT) and SORA_TAG in member.tags


async def _list_keys(keys: ClusterKeys, _arguments: Arguments) -> dict[str, Any]:
    return {"nodes": _plain(await keys.known())}


async def _install_key(keys: ClusterKeys, arguments: Arguments) -> dict[str, Any]:
    text = text_argument(arguments, "key", "")
    key = parse_key(text) if text else new_key()
    answer: dict[str, Any] = {"key": key_name(key), "nodes": _plain(await keys.install(key))}
    return answer if text else {**answer, "new_key": base64.b64encode(key).decode()}


async def _use_key(keys: ClusterKeys, arguments: Arguments) -> dict[str, Any]:
    key = keys.named(text_argument(arguments, "key"))
    return {"key": key_name(key), "nodes": _plain(await keys.use(key))}


async def _remove_key(keys: ClusterKeys, arguments: Arguments) -> dict[str, Any]:
    key = keys.named(text_argument(arguments, "key"))
    return {"key": key_name(key), "nodes": _plain(await keys.remove(key))}


async def _rotate_keys(keys: ClusterKeys, _arguments: Arguments) -> dict[str, Any]:
    """A new key is used everywhere; the old one stays until it is removed. Stops where a node does not
    follow: nothing is lost then, since all of them know the old one."""
    key = new_key()
    installed = await keys.install(key)
    answer: dict[str, Any] = {"key": key_name(key), "new_key": base64.b64encode(key).decode()}
    if not all(each.is_done for each in installed.values()):
        return {**answer, "stopped_at": "install", "nodes": _plain(installed)}
    used = await keys.use(key)
    stopped = {} if all(each.is_done for each in used.values()) else {"stopped_at": "use"}
    return {**answer, **stopped, "nodes": _plain(used)}


def _plain(answers: dict[str, Answer]) -> dict[str, Any]:
    return {name: asdict(answer) for name, answer in answers.items()}
