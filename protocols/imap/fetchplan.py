"""Which sources the items of a FETCH need: memory, row columns, or bodies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from storage.model import Wanted

from .items import BinaryItem, BinarySizeItem, BodyItem, Item, RowItem, ViewItem

BodyLike: TypeAlias = BodyItem | BinaryItem | BinarySizeItem


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """``flat`` items are answered for many messages at once, ``deep`` ones message by message."""

    flat: tuple[Item, ...]  # from the view, row columns, the stored header
    deep: tuple[BodyLike, ...]  # from the body
    wanted: Wanted | None  # None: the view suffices
    marks_seen: bool

    def deepened(self) -> FetchPlan:
        """Header sections too from the body, for header blocks that are not stored whole."""
        flat = tuple(item for item in self.flat if not isinstance(item, BodyLike))
        deep = tuple(item for item in self.flat if isinstance(item, BodyLike))
        return replace(self, flat=flat, deep=deep + self.deep)


@lru_cache(maxsize=256)
def plan_for(items: tuple[Item, ...]) -> FetchPlan:
    """Clients ask for the same few combinations over and over."""
    deep = tuple(item for item in items if isinstance(item, BodyLike) and not _is_header(item))
    wanted: Wanted | None = None
    for item in items:
        if not isinstance(item, ViewItem):
            wanted = (wanted or Wanted.REFERENCE) | _columns_for(item)
    return FetchPlan(
        flat=tuple(item for item in items if item not in deep),
        deep=deep,
        wanted=wanted,
        marks_seen=any(isinstance(item, BodyItem | BinaryItem) and not item.peek for item in items),
    )


def _is_header(item: Item) -> bool:
    return isinstance(item, BodyItem) and item.is_of_header


def _columns_for(item: Item) -> Wanted:
    if item is RowItem.ENVELOPE:
        return Wanted.ENVELOPE
    if isinstance(item, BodyItem):
        if item.is_of_header:
            return Wanted.HEADER
        if not item.section.part and item.section.text is None:
            return Wanted.REFERENCE
    return Wanted.STRUCTURE
