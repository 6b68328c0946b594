"""Sender rewriting (SRS): envelope senders of redirected mail in a domain of our own, and back again. Pure.

A host that checks SPF refuses mail that we send on under somebody else's domain. The rewritten sender carries
the old one, a day and a seal, so that a report of a failure finds its way back, and nobody can use us to send
to anywhere. Two forms, as in the original design: ``SRS0=seal=day=domain=local``, and for a sender that
another host has rewritten already ``SRS1=seal=host=rest``, which goes back to that host and gets no longer
with every hop. Everything that is ours to compare is compared without regard to case, because hosts on the
way may change it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

SEAL_CHARS = 8  # 40 bits: who guesses has to send mail for each try
VALID_DAYS = 21  # for reports of hosts that try for long
_DAYS = 1024
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # of base32, in lower case
_SRS0 = re.compile(r"(?is)srs0[=+-]([a-z2-7]{8})=([a-z2-7]{2})=([^=@]+)=(.+)\Z")
_SRS1 = re.compile(r"(?is)srs1[=+-]([a-z2-7]{8})=([^=@]+)=([=+-].+)\Z")
_FOREIGN0 = re.compile(r"(?is)srs0([=+-].+)\Z")
_FOREIGN1 = re.compile(r"(?is)srs1[=+-][^=]*=([^=@]+)=([=+-].+)\Z")


class BadSrs(ValueError):
    """The address was not made by us, or too long ago; the message says which."""


@dataclass(frozen=True, slots=True, repr=False)
class Srs:
    """``domain``: where reports come to, canonical; ``secret``: of all nodes the same; ``old_secrets`` are
    accepted and not used."""

    domain: str
    secret: bytes
    old_secrets: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Srs({self.domain!r})"

    def is_ours(self, address: str) -> bool:
        """Whether it looks like one of our making; ``reverse`` says if it is."""
        local, _, domain = address.rpartition("@")
        return domain.lower() == self.domain and local[:5].lower() in _PREFIXES

    def forward(self, sender: str, day: int) -> str:
        """The sender of mail that is sent on. The null path, our own domain and quoted local parts stay as
        they are. ``day``: since 1970."""
        local, at, domain = sender.rpartition("@")
        if not at or not local or domain.lower() == self.domain or local.startswith('"'):
            return sender
        if found := _FOREIGN0.match(local):
            return self._srs1(domain, found[1])
        if found := _FOREIGN1.match(local):
            return self._srs1(found[1], found[2])
        stamp = _stamp(day)
        return f"SRS0={self._seal(self.secret, stamp, domain, local)}={stamp}={domain}={local}@{self.domain}"

    def reverse(self, address: str, day: int) -> str:
        """The sender that was rewritten. Raises BadSrs."""
        local, _, domain = address.rpartition("@")
        if domain.lower() != self.domain:
            raise BadSrs("of another domain")
        if found := _SRS0.match(local):
            seal, stamp, old_domain, old_local = found.groups()
            self._check(seal, stamp, old_domain, old_local)
            if (day - _read_stamp(stamp)) % _DAYS > VALID_DAYS and (_read_stamp(stamp) - day) % _DAYS > 1:
                raise BadSrs(f"older than {VALID_DAYS} days")
            return f"{old_local}@{old_domain}"
        if found := _SRS1.match(local):
            seal, host, rest = found.groups()
            self._check(seal, host, rest)
            return f"SRS0{rest}@{host}"
        raise BadSrs("not of our form")

    def _srs1(self, host: str, rest: str) -> str:
        return f"SRS1={self._seal(self.secret, host, rest)}={host}={rest}@{self.domain}"

    def _check(self, seal: str, *what: str) -> None:
        for secret in (self.secret, *self.old_secrets):
            if hmac.compare_digest(seal.lower(), self._seal(secret, *what)):
                return
        raise BadSrs("not sealed by us")

    def _seal(self, secret: bytes, *what: str) -> str:
        text = "\0".join(what).lower().encode("utf-8", "surrogateescape")
        digest = hmac.new(secret, text, hashlib.sha256).digest()
        return base64.b32encode(digest[:5]).decode("ascii").lower()


_PREFIXES = frozenset(f"{tag}{separator}" for tag in ("srs0", "srs1") for separator in "=+-")


def _stamp(day: int) -> str:
    high, low = divmod(day % _DAYS, len(_ALPHABET))
    return _ALPHABET[high] + _ALPHABET[low]


def _read_stamp(stamp: str) -> int:
    high, low = (_ALPHABET.index(char) for char in stamp.lower())
    return high * len(_ALPHABET) + low
