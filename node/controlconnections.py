"""The ``connections.*`` commands of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

from protocols.ports import Goodbye

from .control import Arguments, ControlRefused, Handler, text_argument
from .units import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .clustering.others import OtherNodes
    from .sessions import Entry, Sessions

log = logging.getLogger("sora.sessions")

# A command that runs may end; what takes longer is cut off.
GOODBYE_WITHIN_S: Final = 0.9
FIGURES_WITHIN_S: Final = 1.0  # before sessions are sent away: a process that hangs must not keep them
TURN: Final = 100  # sessions told of or sent away, before mail gets a turn

Matches = Callable[["Entry"], bool]


async def _up_to_date() -> None:
    """Connections of this process are read as they are."""


def connection_commands(
    sessions: Sessions,
    wall_clock: Callable[[], float],
    refresh: Callable[[], Awaitable[None]] = _up_to_date,
    others: Callable[[], OtherNodes | None] = lambda: None,
) -> dict[str, Handler]:
    """``refresh`` brings the figures of connections in other processes up to date. ``others``: nodes of the
    cluster."""
    commands = ConnectionCommands(sessions, wall_clock, refresh, others)
    return {"connections.list": commands.all, "connections.kick": commands.kick}


class ConnectionCommands:
    def __init__(
        self,
        sessions: Sessions,
        wall_clock: Callable[[], float],
        refresh: Callable[[], Awaitable[None]],
        others: Callable[[], OtherNodes | None],
    ) -> None:
        self._sessions = sessions
        self._wall_clock = wall_clock
        self._refresh = refresh
        self._others = others

    async def all(self, arguments: Arguments) -> object:
        """Those that match every filter given (see ``_FILTERS``), the oldest first. ``all_nodes`` true: and
        the first of each other node, with how many there are."""
        matching = matching_sessions(self._sessions, arguments)
        await self._refresh()
        now, told = self._wall_clock(), []
        for number, entry in enumerate(matching, start=1):
            told.append(_plain(entry))
            if number % TURN == 0:
                await asyncio.sleep(0)
        answer: dict[str, object] = {"now": now, "connections": told}
        if arguments.get("all_nodes") is True:
            others = self._others()
            answer["nodes"] = {} if others is None else await others.first(_filters(arguments))
        return answer

    async def kick(self, arguments: Arguments) -> object:
        """The same, with their last figures, sent away, on all nodes unless ``this_node`` is true; without a
        filter ``all`` must be true."""
        if not any(name in arguments for name in _FILTERS) and arguments.get("all") is not True:
            raise ControlRefused("usage", "say which connections to end, or all")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIGURES_WITHIN_S):
                await self._refresh()
        matching = matching_sessions(self._sessions, arguments)
        told = [_plain(entry) for entry in matching]
        others = None if arguments.get("this_node") is True else self._others()
        for number, entry in enumerate(matching, start=1):
            _send_away(entry)
            if number % TURN == 0:
                await asyncio.sleep(0)
        nodes: Mapping[str, int | None] = {}
        if others is not None:
            try:
                nodes = await others.kick(_filters(arguments))
            except ValueError as error:
                raise ControlRefused("usage", str(error)) from error
        if not told and not any(count != 0 for count in nodes.values()):
            raise ControlRefused("not_found", "no connection matches")
        return {"kicked": told, "nodes": dict(nodes)}


def matching_sessions(sessions: Sessions, filters: Arguments) -> list[Entry]:
    """The oldest first. Raises ControlRefused."""
    tests = list(_tests(filters))
    found = [entry for entry in sessions if all(test(entry) for test in tests)]
    return sorted(found, key=lambda entry: entry.opened)


def kick_for_others(sessions: Sessions) -> Callable[[Mapping[str, str], float], int]:
    """For an order of another node: those that match and began before a monotonic time; how many."""

    def kick(filters: Mapping[str, str], before: float) -> int:
        try:
            matching = matching_sessions(sessions, filters)
        except ControlRefused as error:
            log.warning("an order to end sessions is not understood: %s", error)
            return 0
        matching = [entry for entry in matching if entry.opened <= before]
        for entry in matching:
            _send_away(entry)
        return len(matching)

    return kick


def rows_for_others(sessions: Sessions) -> Callable[[Mapping[str, str]], list[list[object]]]:
    """For a list on another node; the columns are ``clustering.others.COLUMNS``."""

    def rows(filters: Mapping[str, str]) -> list[list[object]]:
        try:
            matching = matching_sessions(sessions, filters)
        except ControlRefused:
            return []
        return [
            [
                entry.connection.session_id,
                entry.protocol,
                entry.server,
                entry.user.address if entry.user else "",
                entry.connection.peer.ip,
                round(entry.since, 3),
            ]
            for entry in matching
        ]

    return rows


def _send_away(entry: Entry) -> None:
    fields = {
        "session": entry.connection.session_id,
        "ip": entry.connection.peer.ip,
        "protocol": entry.protocol,
        "server": entry.server,
    }
    if entry.user is not None:
        fields["user"] = entry.user.address
    log.info("ended by an administrator", extra={"fields": fields})
    entry.connection.say_goodbye(Goodbye.KICKED, within_s=GOODBYE_WITHIN_S)


def _filters(arguments: Arguments) -> dict[str, str]:
    return {name: text_argument(arguments, name) for name in _FILTERS if name in arguments}


def _tests(arguments: Arguments) -> Iterator[Matches]:
    for name, make in _FILTERS.items():
        if name in arguments:
            yield make(text_argument(arguments, name))


def _by_user(text: str) -> Matches:
    wanted = text.lower()
    return lambda entry: (
        entry.user is not None and wanted in (entry.user.address.lower(), entry.user.primary_address.lower())
    )


def _by_address(text: str) -> Matches:
    try:
        network: Network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ControlRefused("usage", f"{text!r} is no IP address and no network") from error

    def matches(entry: Entry) -> bool:
        try:
            address = ipaddress.ip_address(entry.connection.peer.ip.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address) in network

    return matches


_FILTERS: Final[dict[str, Callable[[str], Matches]]] = {
    "user": _by_user,
    "address": _by_address,
    "protocol": lambda text: lambda entry: entry.protocol == text.lower(),
    "server": lambda text: lambda entry: entry.server == text,
    "session": lambda text: lambda entry: entry.connection.session_id == text,
}


def _plain(entry: Entry) -> dict[str, object]:
    connection = entry.connection
    return {
        "session": connection.session_id,
        "protocol": entry.protocol,
        "server": entry.server,
        "user": entry.user.address if entry.user else "",
        "address": connection.peer.ip,
        "port": connection.peer.port,
        "via": connection.peer.via_ip,
        "ja4": connection.peer.ja4,
        "tls": connection.has_tls,
        "state": "active" if connection.is_active else "idle",
        "client": f"{entry.client_name} {entry.client_version}".strip(),
        "since": entry.since,
        "bytes_in": connection.bytes_in,
        "bytes_out": connection.bytes_out,
    }
