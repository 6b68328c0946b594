"""Bytes of Serf's messages: one type byte, then a msgpack map by field name (``dialect``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Final

from ..address import Address, unpack_ip
from ..dialect import (
    U8,
    U16,
    U32,
    U64,
    Fields,
    Sequence,
    as_map,
    blob,
    flag,
    malformed,
    name,
    name_of,
    optional_name,
    pack,
    text,
    uint,
)
from ..errors import PacketRejected, Reason
from .messages import (
    Happening,
    JoinIntent,
    LeaveIntent,
    PushPullState,
    Query,
    QueryFlag,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfType,
)

MAX_MESSAGE_BYTES: Final = 9 * 1024  # agents take no larger user event
MAX_QUERY_BYTES: Final = 1024  # encoded, of a query and of a response
_NS: Final = 1_000_000_000
_MAX_TIMEOUT_NS: Final = 3600 * _NS
_MAX_TITLE_BYTES: Final = 512  # the name of an event or query
_MAX_MEMBERS: Final = 100_000


@singledispatch
def encode(message: SerfMessage | PushPullState) -> bytes:
    raise TypeError(f"no message of Serf: {type(message).__name__}")


@encode.register
def _(message: LeaveIntent) -> bytes:
    return b"\x00" + pack({"LTime": message.ltime, "Node": message.node, "Prune": message.prune})


@encode.register
def _(message: JoinIntent) -> bytes:
    return b"\x01" + pack({"LTime": message.ltime, "Node": message.node})


@encode.register
def _(message: Happening) -> bytes:
    fields = {
        "CC": message.may_coalesce,
        "LTime": message.ltime,
        "Name": message.name,
        "Payload": message.payload,
    }
    return b"\x03" + pack(fields)


@encode.register
def _(message: Query) -> bytes:
    fields = {
        "Addr": message.asker.packed,
        "Filters": list(message.filters),
        "Flags": int(message.flags),
        "ID": message.number,
        "LTime": message.ltime,
        "Name": message.name,
        "Payload": message.payload,
        "Port": message.asker.port,
        "RelayFactor": message.relay_factor,
        "SourceNode": message.source_node,
        "Timeout": round(message.timeout_s * _NS),
    }
    return b"\x04" + pack(fields)


@encode.register
def _(message: QueryResponse) -> bytes:
    fields = {
        "Flags": int(QueryFlag.ACK) if message.is_ack else 0,
        "From": message.node,
        "ID": message.number,
        "LTime": message.ltime,
        "Payload": message.payload,
    }
    return b"\x05" + pack(fields)


@encode.register
def _(message: Relay) -> bytes:
    address = {"IP": message.to.packed, "Port": message.to.port, "Zone": ""}
    return b"\x09" + pack({"DestAddr": address, "DestName": message.node}) + message.raw


@encode.register
def _(message: PushPullState) -> bytes:
    fields: dict[str, object] = {
        "EventLTime": message.event_ltime,
        "Events": _event_slots(message.events),
        "LTime": message.ltime,
        "LeftMembers": list(message.left),
        "QueryLTime": message.query_ltime,
        "StatusLTimes": message.statuses,
    }
    if message.sora:
        fields["Sora"] = message.sora
    return b"\x02" + pack(fields)


def _event_slots(events: tuple[Happening, ...]) -> list[object] | None:
    slots: dict[int, list[dict[str, object]]] = {}
    for event in events:
        slots.setdefault(event.ltime, []).append({"Name": event.name, "Payload": event.payload})
    return [{"LTime": ltime, "Events": inside} for ltime, inside in slots.items()] or None


def decode(raw: bytes) -> SerfMessage:
    """A user message. Raises PacketRejected."""
    if not raw:
        raise PacketRejected(Reason.TRUNCATED, "empty user message")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise PacketRejected(Reason.OVERSIZED, "user message")
    decoder = _DECODERS.get(raw[0])
    if decoder is None:
        raise PacketRejected(Reason.UNKNOWN_TYPE, f"user message {raw[0]}")
    parts = Sequence(raw[1:])
    return decoder(parts.next_map(), parts.rest())


def decode_push_pull(raw: bytes) -> PushPullState:
    """What follows the map is ignored, as agents do. Raises PacketRejected."""
    if not raw or raw[0] != SerfType.PUSH_PULL:
        raise malformed("no Serf state")
    fields = Sequence(raw[1:], max_items=min(len(raw), _MAX_MEMBERS)).next_map()
    return PushPullState(
        ltime=_ltime(fields, b"LTime"),
        statuses=_statuses(fields),
        left=tuple(name_of(octets(one)) for one in _array(fields, b"LeftMembers")),
        event_ltime=_ltime(fields, b"EventLTime"),
        events=tuple(_events_of(_array(fields, b"Events"))),
        query_ltime=_ltime(fields, b"QueryLTime"),
        sora=blob(fields, b"Sora", len(raw)),
    )


def octets(value: object) -> bytes:
    """Raises PacketRejected for what is not bytes."""
    if type(value) is not bytes:
        raise malformed("not bytes")
    return value


def _array(fields: Fields, key: bytes) -> tuple[object, ...]:
    value = fields.get(key)
    if value is None:
        return ()
    if type(value) is not tuple:
        raise malformed(f"{key!r} is not an array")
    return value


def _ltime(fields: Fields, key: bytes) -> int:
    return uint(fields, key, U64, 0)


def _statuses(fields: Fields) -> dict[str, int]:
    raw = fields.get(b"StatusLTimes")
    found: dict[str, int] = {}
    for key, ltime in as_map(raw or {}).items():
        if type(ltime) is not int or not 0 <= ltime <= U64:
            raise malformed("StatusLTimes")
        found[name_of(octets(key))] = ltime
    return found


def _events_of(slots: tuple[object, ...]) -> list[Happening]:
    events: list[Happening] = []
    for slot in slots:
        if slot is not None:  # agents send all 512 of their ring
            fields = as_map(slot)
            ltime = _ltime(fields, b"LTime")
            events += [_event_at(ltime, as_map(one)) for one in _array(fields, b"Events")]
    return events


def _event_at(ltime: int, fields: Fields) -> Happening:
    return Happening(ltime, _title(fields), blob(fields, b"Payload", MAX_MESSAGE_BYTES))


def _title(fields: Fields) -> str:
    return text(fields, b"Name", _MAX_TITLE_BYTES)


def address_of(ip: bytes, port: int) -> Address:
    """Raises PacketRejected."""
    try:
        return Address(unpack_ip(ip), port)
    except ValueError:
        raise malformed("address") from None


def _leave(fields: Fields, _rest: bytes) -> LeaveIntent:
    return LeaveIntent(_ltime(fields, b"LTime"), name(fields, b"Node"), flag(fields, b"Prune"))


def _join(fields: Fields, _rest: bytes) -> JoinIntent:
    return JoinIntent(_ltime(fields, b"LTime"), name(fields, b"Node"))


def _event(fields: Fields, _rest: bytes) -> Happening:
    payload = blob(fields, b"Payload", MAX_MESSAGE_BYTES)
    return Happening(_ltime(fields, b"LTime"), _title(fields), payload, flag(fields, b"CC"))


def _query(fields: Fields, _rest: bytes) -> Query:
    return Query(
        ltime=_ltime(fields, b"LTime"),
        number=uint(fields, b"ID", U32, 0),
        asker=address_of(blob(fields, b"Addr", 16), uint(fields, b"Port", U16, 0)),
        source_node=optional_name(fields, b"SourceNode"),
        filters=tuple(octets(one) for one in _array(fields, b"Filters")),
        flags=uint(fields, b"Flags", U32, 0),
        relay_factor=uint(fields, b"RelayFactor", U8, 0),
        timeout_s=min(uint(fields, b"Timeout", U64, 0), _MAX_TIMEOUT_NS) / _NS,
        name=_title(fields),
        payload=blob(fields, b"Payload", MAX_MESSAGE_BYTES),
    )


def _response(fields: Fields, _rest: bytes) -> QueryResponse:
    return QueryResponse(
        ltime=_ltime(fields, b"LTime"),
        number=uint(fields, b"ID", U32, 0),
        node=name(fields, b"From"),
        is_ack=bool(uint(fields, b"Flags", U32, 0) & QueryFlag.ACK),
        payload=blob(fields, b"Payload", MAX_MESSAGE_BYTES),
    )


def _relay(fields: Fields, rest: bytes) -> Relay:
    to = as_map(fields.get(b"DestAddr"))
    address = address_of(blob(to, b"IP", 16), uint(to, b"Port", U16, 0))
    return Relay(address, optional_name(fields, b"DestName"), rest)


_DECODERS: Final[dict[int, Callable[[Fields, bytes], SerfMessage]]] = {
    SerfType.LEAVE: _leave,
    SerfType.JOIN: _join,
    SerfType.USER_EVENT: _event,
    SerfType.QUERY: _query,
    SerfType.QUERY_RESPONSE: _response,
    SerfType.RELAY: _relay,
}
