"""Whom a query is for: nodes by name, nodes whose tags match. All filters of a query have to agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..dialect import as_map, blob, malformed, name_of, pack, unpack
from ..errors import PacketRejected, Reason
from .codec import octets
from .pattern import compiled

_BY_NODE: Final = 0
_BY_TAG: Final = 1
MAX_FILTERS: Final = 16
_MAX_EXPRESSION_BYTES: Final = 2048


def encode_filters(nodes: Sequence[str], tags: Mapping[str, str]) -> tuple[bytes, ...]:
    by_node = (b"\x00" + pack(list(nodes)),) if nodes else ()
    return by_node + tuple(b"\x01" + pack({"Expr": expr, "Tag": tag}) for tag, expr in tags.items())


def is_for(filters: Sequence[bytes], name: str, tags: Mapping[str, str]) -> bool:
    """Whether a node of this name with these tags is meant. An expression that ``pattern`` does not
    understand means nobody. Raises PacketRejected for a damaged filter."""
    if len(filters) > MAX_FILTERS:
        raise PacketRejected(Reason.OVERSIZED, f"{len(filters)} filters")
    return all(_agrees(one, name, tags) for one in filters)


def _agrees(one: bytes, name: str, tags: Mapping[str, str]) -> bool:
    if one[:1] == bytes((_BY_NODE,)):
        return name in _names(one[1:])
    if one[:1] == bytes((_BY_TAG,)):
        return _matches(one[1:], tags)
    raise PacketRejected(Reason.UNKNOWN_TYPE, "filter of a query")


def _names(raw: bytes) -> set[str]:
    names = unpack(raw, max_items=len(raw))
    if type(names) is not tuple:
        raise malformed("filter by node")
    return {name_of(octets(one)) for one in names}


def _matches(raw: bytes, tags: Mapping[str, str]) -> bool:
    fields = as_map(unpack(raw))
    tag = blob(fields, b"Tag", _MAX_EXPRESSION_BYTES).decode(errors="replace")
    expression = blob(fields, b"Expr", _MAX_EXPRESSION_BYTES).decode(errors="replace")
    try:
        return compiled(expression).search(tags.get(tag, ""))
    except ValueError:
        return False
