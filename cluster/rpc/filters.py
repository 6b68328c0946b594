"""What a client wants to hear of: kinds of events, and members by expressions over the whole text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..effects import MemberView
from ..serf.pattern import Pattern, compiled
from .records import EVENT_OF_CHANGE, Record, status_of

_KINDS: Final = frozenset((*EVENT_OF_CHANGE.values(), "user", "query", "*"))
_NAMED: Final = ("user", "query")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """``name`` "": any."""

    kind: str
    name: str = ""

    def takes(self, record: Record) -> bool:
        if self.kind == "*":
            return True
        return record["Event"] == self.kind and self.name in ("", record.get("Name"))


def parse_event_filters(text: str) -> tuple[EventFilter, ...]:
    """As in ``member-join,user:deploy,query``; "" is all. Raises ValueError."""
    return tuple(_event_filter(one) for one in (text or "*").split(","))


def _event_filter(text: str) -> EventFilter:
    kind, colon, name = text.partition(":")
    if kind not in _KINDS or (colon and kind not in _NAMED):
        raise ValueError(f"no kind of event: {text!r}"[:100])
    return EventFilter(kind, name)


def matching(
    members: Iterable[MemberView], tags: Mapping[str, str], status: str, name: str
) -> list[MemberView]:
    """Those whose tags, status and name match; "" matches all. Raises ValueError for an expression that
    ``serf.pattern`` does not know."""
    by_tag = {tag: compiled(expression) for tag, expression in tags.items()}
    by_status, by_name = _optional(status), _optional(name)
    return [
        member
        for member in members
        if all(pattern.fullmatch(member.tags.get(tag, "")) for tag, pattern in by_tag.items())
        and (by_status is None or by_status.fullmatch(status_of(member)))
        and (by_name is None or by_name.fullmatch(member.name))
    ]


def _optional(expression: str) -> Pattern | None:
    return compiled(expression) if expression else None
