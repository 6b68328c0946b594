"""mailto URIs as the method of notify (RFC 5436 §2, RFC 6068). Pure.

What a URI may say about the message is a short list: who writes scripts may let variables flow into it, and
those are words of strangers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from storage.addresses import BadAddress, canonical

from .composing import checked_address

SCHEME: Final = "mailto:"
MAX_RECIPIENTS: Final = 10
MAX_FIELDS: Final = 10
# Beside subject, body, to and cc, with how they are spelled. Others are ignored, those that RFC 5436 §2.7
# names (From, Date, Message-ID, Received, Auto-Submitted) among them.
TAKEN: Final = {
    "comments": "Comments",
    "keywords": "Keywords",
    "organization": "Organization",
    "x-priority": "X-Priority",
    "importance": "Importance",
    "priority": "Priority",
}


@dataclass(frozen=True, slots=True)
class Mailto:
    """``to`` and ``cc`` as they go into fields and envelope, without doubles. ``ignored``: for the log."""

    to: tuple[str, ...]
    cc: tuple[str, ...]
    subject: str | None
    body: str | None
    fields: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]


def parse_mailto(uri: str) -> Mailto | None:
    """None: it is none, or names nobody that mail could go to."""
    if uri[: len(SCHEME)].lower() != SCHEME:
        return None
    path, _, query = uri[len(SCHEME) :].partition("#")[0].partition("?")
    pairs = [_pair(each) for each in query.split("&") if each]
    bad: list[str] = []
    taken: set[str] = set()
    lists = [value for name, value in pairs if name == "to"]
    to = _addresses([path, *lists], taken, bad)
    cc = _addresses([value for name, value in pairs if name == "cc"], taken, bad)
    if not to and not cc:
        return None
    named = [(TAKEN[name], unquote(value)) for name, value in pairs if name in TAKEN]
    known = {*TAKEN, "to", "cc", "subject", "body"}
    unknown = dict.fromkeys(name[:40] for name, _ in pairs if name not in known)
    return Mailto(
        to,
        cc,
        _first(pairs, "subject"),
        _first(pairs, "body"),
        tuple(dict(reversed(named[:MAX_FIELDS])).items())[::-1],
        (*bad, *unknown),
    )


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return unquote(name).strip().lower(), value


def _first(pairs: Sequence[tuple[str, str]], wanted: str) -> str | None:
    return next((unquote(value) for name, value in pairs if name == wanted), None)


def _addresses(lists: Sequence[str], taken: set[str], bad: list[str]) -> tuple[str, ...]:
    """Those that mail can go to, each once. Commas that are part of an address are encoded."""
    found = []
    for each in (address for text in lists for address in text.split(",") if address.strip()):
        try:
            address = checked_address(unquote(each))
            key = canonical(address)
        except BadAddress:
            bad.append(unquote(each)[:100])
            continue
        if key not in taken and len(taken) < MAX_RECIPIENTS:
            taken.add(key)
            found.append(address)
    return tuple(found)
