"""The commands of one client: what each asks of the agent, and what goes back.

To add a command: a method here, a row in ``_COMMANDS`` at the end, and one in ``machine.BODIES``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ..dialect import U64, Fields, blob, flag, malformed, text, uint
from ..effects import Effect, QueryAnswered, QueryAsked
from ..errors import PacketRejected
from ..serf.keyqueries import encode_key_request
from ..serf.queries import INTERNAL_PREFIX
from .agent import Agent, AgentRefused
from .filters import EventFilter, matching, parse_event_filters
from .keyreport import QUERY_OF_COMMAND, KeyReport, parse_key
from .machine import Request, Session
from .monitor import Monitor, parse_level
from .records import (
    Record,
    answer_record,
    coordinate_record,
    event_record,
    members_record,
    stats_record,
    status_of,
)

_MAX_STREAMS: Final = 16
_MAX_QUERIES: Final = 64  # of this client's own, and of others' that it may answer
_MAX_TEXT_BYTES: Final = 2048
_MAX_PAYLOAD_BYTES: Final = 16 * 1024
_NS: Final = 1_000_000_000
_PING: Final = "_serf_ping"  # what ``serf reachability`` asks

STREAM_EXISTS: Final = "Stream with given sequence exists"
MONITOR_EXISTS: Final = "Monitor already exists"
INVALID_FILTER: Final = "Invalid event filter"
INVALID_QUERY_ID: Final = "No pending queries matching ID"


class Conversation:
    """``has_room``: whether the client reads what it gets; records are dropped, and counted, while it does
    not. ``flush`` is called after records were written."""

    def __init__(
        self,
        agent: Agent,
        session: Session,
        *,
        has_room: Callable[[], bool],
        flush: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._session = session
        self._has_room = has_room
        self._flush = flush
        self._streams: dict[int, tuple[EventFilter, ...]] = {}
        self._queries: dict[int, int] = {}  # number of ours -> seq
        self._asked: dict[int, None] = {}  # tokens this client was told of
        self._reports: dict[int, KeyReport] = {}
        self._monitor: tuple[int, Monitor] | None = None
        self._unsubscribe = agent.subscribe(self._hear)
        self.dropped = 0

    def close(self) -> None:
        self._unsubscribe()
        if self._monitor is not None:
            self._monitor[1].close()
            self._monitor = None

    async def run(self, request: Request) -> None:
        """One request, to its reply."""
        command, has_body = _COMMANDS[request.command]
        try:
            body = await command(self, request)
            self._session.reply(request.seq, "", body)
        except _Failed as failed:
            self._session.reply(request.seq, str(failed), failed.body)
        except (AgentRefused, PacketRejected, ValueError) as fault:
            # Clients read a body also after an error, where the command has one.
            self._session.reply(request.seq, str(fault) or type(fault).__name__, {} if has_body else None)

    # --- what comes from the agent ---

    def _hear(self, effect: Effect) -> None:
        if isinstance(effect, QueryAnswered):
            self._hear_answer(effect)
            return
        record = event_record(effect) if self._streams else None
        if record is None:
            return
        seqs = [seq for seq, filters in self._streams.items() if any(one.takes(record) for one in filters)]
        if seqs and isinstance(effect, QueryAsked):
            self._remember(effect.token)
        for seq in seqs:
            self._tell(seq, record)

    def _hear_answer(self, answer: QueryAnswered) -> None:
        report = self._reports.get(answer.query)
        if report is not None:
            report.hear(answer)
        seq = self._queries.get(answer.query)
        if seq is not None:
            if answer.is_over:
                del self._queries[answer.query]
            self._tell(seq, answer_record(answer))

    def _remember(self, token: int) -> None:
        if len(self._asked) >= _MAX_QUERIES:
            del self._asked[next(iter(self._asked))]
        self._asked[token] = None

    def _tell(self, seq: int, record: Record) -> None:
        if not self._has_room():
            self.dropped += 1
            return
        self._session.reply(seq, "", record)
        self._flush()

    # --- commands ---

    async def _members(self, request: Request) -> Record:
        return members_record(await self._agent.members())

    async def _members_filtered(self, request: Request) -> Record:
        body = request.body
        tags, status, name = _texts(body, b"Tags"), _text(body, b"Status"), _text(body, b"Name")
        return members_record(matching(await self._agent.members(), tags, status, name))

    async def _stats(self, request: Request) -> Record:
        return stats_record(self._agent.name, await self._agent.members(), await self._agent.figures())

    async def _event(self, request: Request) -> None:
        body = request.body
        coalesce = flag(body, b"Coalesce")
        await self._agent.send_event(_text(body, b"Name"), _payload(body), may_coalesce=coalesce)

    async def _join(self, request: Request) -> Record:
        peers = _list(request.body, b"Existing")
        try:
            return {"Num": await self._agent.join(peers)}
        except AgentRefused as refusal:
            raise _Failed(str(refusal), {"Num": 0}) from refusal

    async def _leave(self, request: Request) -> None:
        await self._agent.leave()

    async def _force_leave(self, request: Request) -> None:
        """A member that is not known, or not failed, is no error for an agent either."""
        await self._agent.force_leave(_text(request.body, b"Node"), prune=flag(request.body, b"Prune"))

    async def _tags(self, request: Request) -> None:
        await self._agent.change_tags(_texts(request.body, b"Tags"), _list(request.body, b"DeleteTags"))

    async def _coordinate(self, request: Request) -> Record:
        return coordinate_record(await self._agent.coordinate(_text(request.body, b"Node")))

    async def _stream(self, request: Request) -> None:
        if request.seq in self._streams:
            raise _Failed(STREAM_EXISTS)
        if len(self._streams) >= _MAX_STREAMS:
            raise _Failed(f"{_MAX_STREAMS} streams are open already")
        try:
            self._streams[request.seq] = parse_event_filters(_text(request.body, b"Type"))
        except ValueError as fault:
            raise _Failed(INVALID_FILTER) from fault

    async def _start_monitor(self, request: Request) -> None:
        if self._monitor is not None:
            raise _Failed(MONITOR_EXISTS)
        level, seq = parse_level(_text(request.body, b"LogLevel")), request.seq
        self._monitor = seq, Monitor(level, lambda line: self._tell(seq, {"Log": line}))

    async def _stop(self, request: Request) -> None:
        stopped = uint(request.body, b"Stop", U64, 0)
        self._streams.pop(stopped, None)
        if self._monitor is not None and self._monitor[0] == stopped:
            self._monitor[1].close()
            self._monitor = None

    async def _query(self, request: Request) -> None:
        """A relay factor is accepted and not used: answers come straight."""
        body, name = request.body, _text(request.body, b"Name")
        if name.startswith(INTERNAL_PREFIX) and name != _PING:
            raise _Failed(f"Queries cannot contain the '{INTERNAL_PREFIX}' prefix")
        if len(self._queries) >= _MAX_QUERIES:
            raise _Failed(f"{_MAX_QUERIES} queries are open already")
        number = await self._agent.ask(
            name,
            _payload(body),
            timeout_s=uint(body, b"Timeout", U64, 0) / _NS,
            nodes=_list(body, b"FilterNodes"),
            tags=_texts(body, b"FilterTags"),
            wants_ack=flag(body, b"RequestAck"),
        )
        self._queries[number] = request.seq

    async def _respond(self, request: Request) -> None:
        token = uint(request.body, b"ID", U64, 0)
        if token not in self._asked:
            raise _Failed(INVALID_QUERY_ID)
        await self._agent.respond(token, _payload(request.body))
        self._asked.pop(token, None)

    async def _keys(self, request: Request) -> Record:
        text = _text(request.body, b"Key")
        key = parse_key(text) if request.command != "list-keys" else b""
        alive = [one for one in await self._agent.members() if status_of(one) in ("alive", "leaving")]
        over = asyncio.Event()
        report = KeyReport(len(alive), over.set)
        number = await self._agent.ask(
            QUERY_OF_COMMAND[request.command],
            encode_key_request(key),
            timeout_s=0.0,
            nodes=(),
            tags={},
            wants_ack=False,
        )
        self._reports[number] = report
        try:
            await over.wait()
        finally:
            del self._reports[number]
        if report.error():
            raise _Failed(report.error(), report.record())
        return report.record()


class _Failed(Exception):
    """With the body that goes along."""

    def __init__(self, error: str, body: Record | None = None) -> None:
        super().__init__(error)
        self.body = body


def _text(body: Fields, key: bytes) -> str:
    return text(body, key, _MAX_TEXT_BYTES)


def _payload(body: Fields) -> bytes:
    return blob(body, b"Payload", _MAX_PAYLOAD_BYTES)


def _list(body: Fields, key: bytes) -> list[str]:
    value = body.get(key) or ()
    if not isinstance(value, tuple):
        raise malformed(f"{key!r} is not an array")
    return [_one(one, key) for one in value]


def _one(value: object, key: bytes) -> str:
    return text({key: value}, key, _MAX_TEXT_BYTES)


def _texts(body: Fields, key: bytes) -> dict[str, str]:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise malformed(f"{key!r} is not a map")
    return {_one(name, key): _one(one, key) for name, one in value.items()}


_Command = Callable[[Conversation, Request], Awaitable[Record | None]]

# Whether the reply has a body.
_COMMANDS: Final[dict[str, tuple[_Command, bool]]] = {
    "members": (Conversation._members, True),
    "members-filtered": (Conversation._members_filtered, True),
    "stats": (Conversation._stats, True),
    "event": (Conversation._event, False),
    "join": (Conversation._join, True),
    "leave": (Conversation._leave, False),
    "force-leave": (Conversation._force_leave, False),
    "tags": (Conversation._tags, False),
    "get-coordinate": (Conversation._coordinate, True),
    "stream": (Conversation._stream, False),
    "monitor": (Conversation._start_monitor, False),
    "stop": (Conversation._stop, False),
    "query": (Conversation._query, False),
    "respond": (Conversation._respond, False),
    **dict.fromkeys(QUERY_OF_COMMAND, (Conversation._keys, True)),
}
