"""The way of a message so far, as its trace fields tell it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.addresses import BadAddress, canonical

# RFC 5321 §6.3: a large count of Received fields means a loop, and 100 is what that takes.
MAX_RECEIVED_FIELDS = 100
LOOP_FIELD = "X-Sora-Loop"  # how often the message was sent on by a script, by any node

_FIELD = re.compile(
    rb"^(received|delivered-to|" + LOOP_FIELD.lower().encode() + rb")[ \t]*:[ \t]*([^\r\n]*)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Way:
    received_fields: int
    delivered_to: frozenset[str]  # canonical
    hops: int  # redirects of ours

    def is_looping(self, address: str) -> bool:
        """Whether a message for ``address`` is to be refused: it travels for ever, or was here before and
        no script of ours has sent it on. What our scripts send ends in their mailboxes at the latest."""
        if self.received_fields > MAX_RECEIVED_FIELDS:
            return True
        return not self.hops and address in self.delivered_to


def read_way(header: bytes) -> Way:
    """Of a raw header block. Fields that say nonsense count as little as they can."""
    received = loops = highest = 0
    addresses = set()
    for match in _FIELD.finditer(header):
        name = match[1].lower()
        if name == b"received":
            received += 1
        elif name == b"delivered-to":
            try:
                addresses.add(canonical(match[2].decode("utf-8").strip().strip("<>")))
            except (UnicodeDecodeError, BadAddress):
                continue
        else:
            loops += 1
            value = match[2].strip()
            if value.isdigit() and len(value) < 5:
                highest = max(highest, int(value))
    return Way(received, frozenset(addresses), max(loops, highest))
