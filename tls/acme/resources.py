"""A CA's answers as values: directory, order, authorisation, challenge (RFC 8555 §7.1). Pure.

Raises NotAcme for anything that is not what the RFC says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .problems import Problem, clean, parse_problem

MAX_AUTHORISATIONS = 1000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")  # at least 128 bits, RFC 8555 §8.1


class NotAcme(Exception):
    """What answered does not speak ACME; the message says what was wrong."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Empty URLs: the CA does not do it."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke: str
    key_change: str
    renewal_info: str
    profiles: Mapping[str, str]
    needs_external_account: bool


@dataclass(frozen=True, slots=True)
class Challenge:
    kind: str
    url: str
    status: str
    token: str
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Authorisation:
    """``name``: without the ``*.`` of a wildcard."""

    name: str
    status: str
    is_wildcard: bool
    challenges: tuple[Challenge, ...]

    @property
    def label(self) -> str:
        return f"*.{self.name}" if self.is_wildcard else self.name

    def challenge(self, kind: str) -> Challenge | None:
        return next((each for each in self.challenges if each.kind == kind), None)


@dataclass(frozen=True, slots=True)
class Order:
    status: str
    authorisations: tuple[str, ...]
    finalize: str
    certificate: str
    problem: Problem | None


def parse_directory(document: object) -> Directory:
    directory = _object(document, "directory")
    meta = directory.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    profiles = meta.get("profiles")
    return Directory(
        new_nonce=_text(directory, "newNonce"),
        new_account=_text(directory, "newAccount"),
        new_order=_text(directory, "newOrder"),
        revoke=_maybe(directory, "revokeCert"),
        key_change=_maybe(directory, "keyChange"),
        renewal_info=_maybe(directory, "renewalInfo"),
        profiles=_profiles(profiles) if isinstance(profiles, Mapping) else {},
        needs_external_account=meta.get("externalAccountRequired") is True,
    )


def _profiles(document: Mapping[object, object]) -> dict[str, str]:
    return {clean(str(name)): clean(str(text)) for name, text in document.items()}


def parse_order(document: object) -> Order:
    order = _object(document, "order")
    urls = order.get("authorizations")
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise NotAcme("an order without a list of authorisations")
    if len(urls) > MAX_AUTHORISATIONS:
        raise NotAcme(f"an order with {len(urls)} authorisations")
    error = order.get("error")
    return Order(
        status=_text(order, "status"),
        authorisations=tuple(urls),
        finalize=_text(order, "finalize"),
        certificate=_maybe(order, "certificate"),
        problem=None if error is None else parse_problem(error),
    )


def parse_authorisation(document: object) -> Authorisation:
    authorisation = _object(document, "authorisation")
    identifier = _object(authorisation.get("identifier"), "identifier")
    challenges = authorisation.get("challenges")
    if not isinstance(challenges, list):
        raise NotAcme("an authorisation without challenges")
    return Authorisation(
        name=_text(identifier, "value"),
        status=_text(authorisation, "status"),
        is_wildcard=authorisation.get("wildcard") is True,
        challenges=tuple(_challenge(each) for each in challenges),
    )


def _challenge(document: object) -> Challenge:
    challenge = _object(document, "challenge")
    kind, token, error = _text(challenge, "type"), _maybe(challenge, "token"), challenge.get("error")
    if kind in ("http-01", "dns-01") and not _TOKEN.fullmatch(token):
        raise NotAcme(f"a challenge with a token that cannot be in a URL: {token[:140]!r}")
    return Challenge(
        kind=kind,
        url=_text(challenge, "url"),
        status=_text(challenge, "status"),
        token=token,
        problem=None if error is None else parse_problem(error),
    )


def _object(document: object, what: str) -> Mapping[str, object]:
    if not isinstance(document, Mapping):
        raise NotAcme(f"the {what} is no JSON object")
    return document


def _maybe(document: Mapping[str, object], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _text(document: Mapping[str, object], key: str) -> str:
    value = _maybe(document, key)
    if not value:
        raise NotAcme(f"{key} is missing in an answer")
    return value
