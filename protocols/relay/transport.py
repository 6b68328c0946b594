"""What a transport tells: one verdict for each recipient, or that the relay itself cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from storage.dsn import NO_REQUEST, DsnRequest
from storage.relayfile import Fate, Verdict

MAX_REPLY_CHARS: Final = 1_000
_STATUS: Final = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?=\s|$)")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class RelayDown(Exception):
    """The relay cannot be reached, is not who it should be, or does not want to talk to us.

    It says nothing about the message, none of whose recipients was taken.
    """

    def __init__(self, status: str, reply: str) -> None:
        super().__init__(reply)
        self.status = status
        self.reply = clean(reply)


class Transport(Protocol):
    remote: str  # its name, for reports

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
    ) -> list[Verdict]:
        """One transaction; verdicts in the order of the recipients. ``dsn`` is for these recipients, and is
        left out where the remote has no word for it. Raises RelayDown."""
        ...

    async def close(self) -> None:
        """End connections that are kept open."""
        ...


def clean(text: str) -> str:
    """A reply of a stranger on one line of bounded length, without controls."""
    return _UNPRINTABLE.sub(" ", text).strip()[:MAX_REPLY_CHARS]


def verdict_of(code: int, text: str, remote: str) -> Verdict:
    """What an SMTP reply means for one recipient. What is neither yes nor no is "not now"."""
    fate = {2: Fate.TAKEN, 5: Fate.REFUSED}.get(code // 100, Fate.DEFERRED)
    return Verdict(fate, status_of(code, text), f"{code} {clean(text)}", remote)


def status_of(code: int, text: str) -> str:
    """The enhanced status code of a reply (RFC 2034 §3), or what its first digit allows to say."""
    digit = str(code)[0] if code // 100 in (2, 4, 5) else "4"
    found = _STATUS.match(text)
    return found[0] if found is not None and found[1] == digit else f"{digit}.0.0"
