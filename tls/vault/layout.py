"""Where objects are in the bucket. Pure.

    tls/v1/<ca-id>/account/<fence>.bin
    tls/v1/<ca-id>/certs/<wanted-id>/<fence>-<sha256/16>.bin
    tls/v1/<ca-id>/orders/<wanted-id>/<fence>.bin
    tls/v1/challenges/<token>

Fences have 12 digits, so the order of keys is that of fences. No object is ever overwritten: a second
account or order under one fence is ``<fence>-2.bin``, then ``<fence>-3.bin``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from .sealing import Kind, Label

ROOT = "tls/v1/"
CHALLENGES = f"{ROOT}challenges/"
FENCE_DIGITS = 12
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")
_WANTED_ID = re.compile(r"[0-9a-f]{16}")
_ISSUED = re.compile(rf"(?P<fence>[0-9]{{{FENCE_DIGITS}}})-(?P<digest>[0-9a-f]{{16}})\.bin")
_SUBJECT = re.compile(rf"{ROOT}(?P<ca>[0-9a-f]{{16}})/(?P<kind>certs|orders)/(?P<subject>[0-9a-f]{{16}})/.*")
_NUMBERED = re.compile(rf"(?P<fence>[0-9]{{{FENCE_DIGITS}}})(-(?P<turn>[1-9][0-9]{{0,3}}))?\.bin")


def ca_id(directory: str) -> str:
    """Of a directory URL, as 16 hex digits."""
    return sha256(directory.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_token(text: str) -> bool:
    """Whether this can be the token of a challenge (RFC 8555 §8.3), of a length that CAs use."""
    return _TOKEN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A numbered object. In the order of age: by fence, then by turn."""

    fence: int
    turn: int  # 0 for certificates, whose digest tells them apart
    key: str
    ca_id: str
    digest: str = ""  # of the sealed certificate


def prefix(kind: Kind, ca: str, subject: str = "") -> str:
    """Below which the numbered objects of one subject are. ``ca``: its id. Raises ValueError."""
    if kind is Kind.ACCOUNT:
        return f"{ROOT}{ca}/{kind.value}/"
    if _WANTED_ID.fullmatch(subject) is None:
        raise ValueError(f"not the id of a certificate: {subject!r}")
    return f"{ROOT}{ca}/{kind.value}/{subject}/"


def certificates(ca: str) -> str:
    """Below which those of all subjects are. ``ca``: its id."""
    return f"{ROOT}{ca}/{Kind.CERTIFICATE.value}/"


def newest_fences(ca: str, keys: Iterable[str]) -> dict[str, int]:
    """Of ``keys`` below ``certificates(ca)``: the highest fence by the id of what it is for."""
    found: dict[str, int] = {}
    for key in keys:
        subject, _, name = key.removeprefix(certificates(ca)).partition("/")
        match = _ISSUED.fullmatch(name)
        if match is not None and _WANTED_ID.fullmatch(subject) is not None:
            found[subject] = max(found.get(subject, 0), int(match["fence"]))
    return found


def certificate_key(label: Label, sealed: bytes) -> str:
    return f"{prefix(label.kind, label.ca_id, label.subject)}{_digits(label.fence)}-{digest(sealed)}.bin"


def numbered_key(label: Label, taken: Iterable[Place]) -> str:
    """The next free one under the fence. ``taken``: what there is already."""
    turns = [place.turn for place in taken if place.fence == label.fence and place.ca_id == label.ca_id]
    suffix = f"-{max(turns) + 1}" if turns else ""
    return f"{prefix(label.kind, label.ca_id, label.subject)}{_digits(label.fence)}{suffix}.bin"


def challenge_key(token: str) -> str:
    """Raises ValueError."""
    if not is_token(token):
        raise ValueError(f"not a challenge's token: {token!r}")
    return CHALLENGES + token


def digest(sealed: bytes) -> str:
    return sha256(sealed).hexdigest()[:16]


def places(kind: Kind, ca: str, subject: str, keys: Iterable[str]) -> list[Place]:
    """The newest first; keys that are none of ours are left out."""
    start = prefix(kind, ca, subject)
    pattern = _ISSUED if kind is Kind.CERTIFICATE else _NUMBERED
    found = []
    for key in keys:
        match = pattern.fullmatch(key.removeprefix(start)) if key.startswith(start) else None
        if match is not None:
            parts = match.groupdict()
            turn = 0 if kind is Kind.CERTIFICATE else int(parts["turn"] or 1)
            found.append(Place(int(parts["fence"]), turn, key, ca, parts.get("digest") or ""))
    return sorted(found, reverse=True)


def locate(key: str) -> tuple[Kind, str, Place] | None:
    """Of a certificate or an order: which it is, and the id of what it is for. None: it is neither."""
    match = _SUBJECT.fullmatch(key)
    if match is None:
        return None
    kind, subject = Kind(match["kind"]), match["subject"]
    found = places(kind, match["ca"], subject, [key])
    return (kind, subject, found[0]) if found else None


def _digits(fence: int) -> str:
    if not 0 <= fence < 10**FENCE_DIGITS:
        raise ValueError(f"a fence has at most {FENCE_DIGITS} digits: {fence}")
    return f"{fence:0{FENCE_DIGITS}}"
