"""A sealed certificate in parts that gossip carries: cut here, put together there. Pure.

What arrives proves nothing by itself: whoever gets the whole has to open it, and its key says what must be in
it. A certificate is sealed as it is in the bucket, and gossip seals it once more.
"""

from __future__ import annotations

import re
from typing import Final

from cluster.facts import MAX_KEY_BYTES, MAX_VALUE_BYTES
from node.clustering.wire import Unreadable

COPY: Final = b"copy/"
PARTS_MAX: Final = 40  # two RSA-4096 chains with room; a burst that the urgent lane still carries
COLLECTED_MAX: Final = 8  # incomplete ones, at one time
_KEY = re.compile(rb"copy/(?P<object>[\x21-\x7e]+):(?P<number>[0-9]{1,2}):(?P<count>[0-9]{1,2})")


def split(key: str, sealed: bytes) -> dict[bytes, bytes]:
    """Entries; empty: it is too large."""
    pieces = [sealed[at : at + MAX_VALUE_BYTES] for at in range(0, len(sealed), MAX_VALUE_BYTES)]
    if len(pieces) > PARTS_MAX:
        return {}
    found = {
        b"%s%s:%d:%d" % (COPY, key.encode("ascii"), n, len(pieces)): each for n, each in enumerate(pieces)
    }
    return found if all(len(each) <= MAX_KEY_BYTES for each in found) else {}


def is_copy_of(key: str, wanted_id: str, up_to: int) -> bool:
    """Whether an object, by its key, is of this certificate and of no higher fence."""
    found = re.search(rf"/{re.escape(wanted_id)}/(\d+)-", key)
    return found is not None and int(found[1]) <= up_to


class Collected:
    """Parts that came so far. Of more than COLLECTED_MAX objects the oldest is forgotten; hearing its parts
    again, as after a restart, completes it."""

    def __init__(self) -> None:
        self._parts: dict[tuple[bytes, int], dict[int, bytes]] = {}

    def add(self, key: bytes, value: bytes | None) -> tuple[str, bytes] | None:
        """``value`` None: it was withdrawn. The object's key and content when this was the last part. Raises
        Unreadable."""
        found = _KEY.fullmatch(key)
        if found is None or not int(found["number"]) < int(found["count"]) <= PARTS_MAX:
            raise Unreadable("no part of a copy")
        count = int(found["count"])
        name = (found["object"], count)
        if value is None:
            self._parts.pop(name, None)
            return None
        parts = self._parts.setdefault(name, {})
        parts[int(found["number"])] = value
        if len(parts) == count:
            del self._parts[name]
            return name[0].decode("ascii"), b"".join(parts[number] for number in range(count))
        while len(self._parts) > COLLECTED_MAX:
            del self._parts[next(iter(self._parts))]
        return None
