"""The bytes of each message of memberlist, protocol 2: a type byte, then a map of named fields.

``encode`` and ``decode`` are for one message by itself, ``decode_push_pull`` and its neighbours for what only
streams carry. Decoding is strict: a field of the wrong kind, out of range, of too many bytes, or a name that
is none refuses the message; keys that we do not know are skipped, and nil stands for empty bytes.

Whether a message makes sense (versions, incarnations, who may say so) is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from .address import Address, unpack_ip
from .dialect import (
    U16,
    U32,
    Fields,
    Sequence,
    blob,
    flag,
    malformed,
    name,
    optional_name,
    pack,
    uint,
    unpack_map,
)
from .errors import PacketRejected, Reason
from .messages import (
    MAX_META_BYTES,
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    Message,
    MessageType,
    Nack,
    NodeRecord,
    Ping,
    PushPull,
    State,
    Suspect,
    User,
)

MAX_ACK_BYTES: Final = 1024
MAX_ERROR_BYTES: Final = 1024
MAX_USER_BYTES: Final = 16 * 1024  # Serf's hard limit for an event is 9 KiB
MAX_USER_STREAM_BYTES: Final = 2 * 1024 * 1024
MAX_USER_STATE_BYTES: Final = 20 * 1024 * 1024
MAX_NODES: Final = 100_000  # in one push/pull; memberlist would take a million

# --- encoding -----------------------------------------------------------------------------------------

_TYPE = {number: bytes((number,)) for number in MessageType}


def _source(source: Address | None, node: str) -> dict[str, object]:
    if source is None and node:
        return {"SourceNode": node}
    if source is None:
        return {}
    return {"SourceAddr": source.packed, "SourcePort": source.port, "SourceNode": node}


def _encode_ping(message: Ping) -> bytes:
    fields = {"SeqNo": message.seq_no, "Node": message.node, **_source(message.source, message.source_node)}
    return _TYPE[MessageType.PING] + pack(fields)


def _encode_indirect_ping(message: IndirectPing) -> bytes:
    fields = {
        "SeqNo": message.seq_no,
        "Target": message.target.packed,
        "Port": message.target.port,
        "Node": message.node,
        "Nack": message.wants_nack,
        **_source(message.source, message.source_node),
    }
    return _TYPE[MessageType.INDIRECT_PING] + pack(fields)


def _encode_ack(message: Ack) -> bytes:
    return _TYPE[MessageType.ACK] + pack({"SeqNo": message.seq_no, "Payload": message.payload or None})


def _encode_nack(message: Nack) -> bytes:
    return _TYPE[MessageType.NACK] + pack({"SeqNo": message.seq_no})


def _encode_error(message: ErrorReply) -> bytes:
    return _TYPE[MessageType.ERROR] + pack({"Error": message.text})


def _accusation(message: Suspect | Dead) -> bytes:
    return pack({"Incarnation": message.incarnation, "Node": message.node, "From": message.accuser})


def _encode_suspect(message: Suspect) -> bytes:
    return _TYPE[MessageType.SUSPECT] + _accusation(message)


def _encode_dead(message: Dead) -> bytes:
    return _TYPE[MessageType.DEAD] + _accusation(message)


def _encode_alive(message: Alive) -> bytes:
    fields = {
        "Incarnation": message.incarnation,
        "Node": message.node,
        "Addr": message.address.packed,
        "Port": message.address.port,
        "Meta": message.meta or None,
        "Vsn": message.vsn or None,
    }
    return _TYPE[MessageType.ALIVE] + pack(fields)


def _encode_user(message: User) -> bytes:
    return _TYPE[MessageType.USER] + message.raw


def _encode_push_pull(message: PushPull) -> bytes:
    header = {
        "Nodes": len(message.nodes),
        "UserStateLen": len(message.user_state),
        "Join": message.is_join,
    }
    records = [pack(_record_fields(record)) for record in message.nodes]
    return b"".join((_TYPE[MessageType.PUSH_PULL], pack(header), *records, message.user_state))


def _record_fields(record: NodeRecord) -> dict[str, object]:
    return {
        "Name": record.node,
        "Addr": record.address.packed,
        "Port": record.address.port,
        "Meta": record.meta or None,
        "Incarnation": record.incarnation,
        "State": int(record.state),
        "Vsn": record.vsn or None,
    }


_ENCODERS: Final[dict[type, Callable[..., bytes]]] = {
    Ping: _encode_ping,
    IndirectPing: _encode_indirect_ping,
    Ack: _encode_ack,
    Nack: _encode_nack,
    ErrorReply: _encode_error,
    Suspect: _encode_suspect,
    Dead: _encode_dead,
    Alive: _encode_alive,
    User: _encode_user,
    PushPull: _encode_push_pull,
}


def encode(message: Message) -> bytes:
    """With its type byte. A ``User`` as in a datagram: on a stream it has a header, see ``streams``."""
    return _ENCODERS[type(message)](message)


# --- decoding -----------------------------------------------------------------------------------------


def _address(fields: Fields, ip: bytes, port: bytes) -> Address:
    packed, number = blob(fields, ip, 16), uint(fields, port, U16)
    try:
        found = unpack_ip(packed)
    except ValueError:
        raise malformed(f"{ip!r} has {len(packed)} bytes") from None
    if not number:
        raise malformed(f"{port!r} is 0")
    return Address(found, number)


def _optional_source(fields: Fields) -> Address | None:
    if fields.get(b"SourceAddr") and fields.get(b"SourcePort"):
        return _address(fields, b"SourceAddr", b"SourcePort")
    return None


def _vsn(fields: Fields) -> bytes:
    found = blob(fields, b"Vsn", 6)
    if len(found) not in (0, 6):
        raise malformed(f"'Vsn' has {len(found)} bytes")
    return found


def _decode_ping(fields: Fields) -> Ping:
    return Ping(
        seq_no=uint(fields, b"SeqNo", U32),
        node=optional_name(fields, b"Node"),
        source=_optional_source(fields),
        source_node=optional_name(fields, b"SourceNode"),
    )


def _decode_indirect_ping(fields: Fields) -> IndirectPing:
    return IndirectPing(
        seq_no=uint(fields, b"SeqNo", U32),
        target=_address(fields, b"Target", b"Port"),
        node=name(fields, b"Node"),
        wants_nack=flag(fields, b"Nack"),
        source=_optional_source(fields),
        source_node=optional_name(fields, b"SourceNode"),
    )


def _decode_ack(fields: Fields) -> Ack:
    return Ack(uint(fields, b"SeqNo", U32), blob(fields, b"Payload", MAX_ACK_BYTES))


def _decode_nack(fields: Fields) -> Nack:
    return Nack(uint(fields, b"SeqNo", U32))


def _decode_error(fields: Fields) -> ErrorReply:
    said = blob(fields, b"Error", MAX_ERROR_BYTES).decode(errors="replace")
    return ErrorReply("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in said))


def _decode_suspect(fields: Fields) -> Suspect:
    return Suspect(uint(fields, b"Incarnation", U32), name(fields, b"Node"), name(fields, b"From"))


def _decode_dead(fields: Fields) -> Dead:
    return Dead(uint(fields, b"Incarnation", U32), name(fields, b"Node"), name(fields, b"From"))


def _decode_alive(fields: Fields) -> Alive:
    return Alive(
        incarnation=uint(fields, b"Incarnation", U32),
        node=name(fields, b"Node"),
        address=_address(fields, b"Addr", b"Port"),
        meta=blob(fields, b"Meta", MAX_META_BYTES),
        vsn=_vsn(fields),
    )


@lru_cache(maxsize=8192)
def _decode_record(raw: bytes) -> NodeRecord:
    """The same node looks the same in most of all push/pulls, so most are known: a tenth of the cost."""
    fields = unpack_map(raw)
    return NodeRecord(
        node=name(fields, b"Name"),
        address=_address(fields, b"Addr", b"Port"),
        meta=blob(fields, b"Meta", MAX_META_BYTES),
        incarnation=uint(fields, b"Incarnation", U32),
        state=State(uint(fields, b"State", max(State))),
        vsn=_vsn(fields),
    )


_DECODERS: Final[dict[int, Callable[[Fields], Message]]] = {
    MessageType.PING: _decode_ping,
    MessageType.INDIRECT_PING: _decode_indirect_ping,
    MessageType.ACK: _decode_ack,
    MessageType.NACK: _decode_nack,
    MessageType.ERROR: _decode_error,
    MessageType.SUSPECT: _decode_suspect,
    MessageType.DEAD: _decode_dead,
    MessageType.ALIVE: _decode_alive,
}


_STATEMENTS: Final = frozenset((MessageType.SUSPECT, MessageType.ALIVE, MessageType.DEAD))


def decode(raw: bytes) -> Message:
    """One message of a datagram, or a message of a stream that has the same form there.

    Raises:
        PacketRejected: MALFORMED, TRUNCATED, OVERSIZED or UNKNOWN_TYPE.
    """
    if not raw:
        raise PacketRejected(Reason.TRUNCATED, "no type")
    if raw[0] == MessageType.USER:
        return _user(raw[1:], MAX_USER_BYTES)
    if raw[0] in _STATEMENTS:
        return _decode_statement(raw)
    return _decode_map(raw)


def _decode_map(raw: bytes) -> Message:
    decoder = _DECODERS.get(raw[0])
    if decoder is None:
        raise PacketRejected(Reason.UNKNOWN_TYPE, str(raw[0]))
    return decoder(unpack_map(memoryview(raw)[1:]))


@lru_cache(maxsize=8192)
def _decode_statement(raw: bytes) -> Message:
    """About members: gossip brings each many times, from one member after the other."""
    return _decode_map(raw)


def _user(raw: bytes, limit: int) -> User:
    if len(raw) > limit:
        raise PacketRejected(Reason.OVERSIZED, f"a user message of {len(raw)} bytes")
    if not raw:
        raise PacketRejected(Reason.TRUNCATED, "an empty user message")
    return User(raw)


def decode_push_pull(raw: bytes) -> PushPull:
    """``raw`` with its type byte. Raises PacketRejected."""
    values = Sequence(memoryview(raw)[1:])
    header = values.next_map()
    count = _promised(header, b"Nodes", MAX_NODES)
    size = _promised(header, b"UserStateLen", MAX_USER_STATE_BYTES)
    if count > len(raw) or size > len(raw):
        raise PacketRejected(Reason.TRUNCATED, f"{count} nodes, {size} bytes of state")
    nodes = tuple(_decode_record(values.next_raw()) for _ in range(count))
    return PushPull(nodes, _exactly(values.rest(), size), flag(header, b"Join"))


def encode_user_stream(raw: bytes) -> bytes:
    """A user message as on streams; ``raw`` as in ``User``."""
    return _TYPE[MessageType.USER] + pack({"UserMsgLen": len(raw)}) + raw


def decode_user_stream(raw: bytes) -> User:
    """``raw`` with its type byte. Raises PacketRejected."""
    values = Sequence(memoryview(raw)[1:])
    size = _promised(values.next_map(), b"UserMsgLen", MAX_USER_STREAM_BYTES)
    return _user(_exactly(values.rest(), size), MAX_USER_STREAM_BYTES)


def _promised(fields: Fields, key: bytes, limit: int) -> int:
    value = uint(fields, key, U32)
    if value > limit:
        raise PacketRejected(Reason.OVERSIZED, f"{key!r} is {value}")
    return value


def _exactly(rest: bytes, size: int) -> bytes:
    if len(rest) != size:
        raise PacketRejected(
            Reason.TRUNCATED if len(rest) < size else Reason.MALFORMED,
            f"{len(rest)} bytes where {size} are said",
        )
    return rest
