"""What is inside sealed objects, as JSON. Pure.

Fields may be added with a default; what a newer program added is ignored by an older one.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import msgspec

from ..ports import Account, Generation, Journal
from .sealing import NotUsable, Reason

T = TypeVar("T", Account, Generation, Journal, "Challenge")
_ENCODER = msgspec.json.Encoder()


class Challenge(msgspec.Struct, frozen=True):
    key_authorisation: str
    put_at: datetime


def dump(record: Account | Generation | Journal | Challenge) -> bytes:
    return _ENCODER.encode(record)


def load(content: bytes, kind: type[T]) -> T:
    """Raises NotUsable."""
    try:
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotUsable(Reason.INVALID, f"it holds no {kind.__name__.lower()}: {error}") from error
    if any(moment.tzinfo is None for moment in _moments(record)):
        raise NotUsable(Reason.INVALID, f"its {kind.__name__.lower()} has a time without a zone")
    return record


def _moments(record: object) -> list[datetime]:
    fields = ("issued_at", "begun_at", "put_at")
    return [getattr(record, field) for field in fields if hasattr(record, field)]
