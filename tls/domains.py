"""From the names and key types of a configuration to the certificates it asks for. Pure.

Names are judged here and not by the CA: some authorities take nonsense, and each refusal costs quota.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .wanted import KeyType, Wanted

MAX_NAMES = 100  # of one certificate: what Let's Encrypt takes
MAX_NAME_CHARS = 253
MAX_LABEL_CHARS = 63
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
WILDCARD = "*."


class BadName(ValueError):
    """The message completes 'NAME ...'; ``cure`` says what to write instead."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


@dataclass(frozen=True, slots=True)
class Fault:
    """``where``: the option below ``tls.letsencrypt``."""

    where: str
    message: str
    cure: str = ""
    is_error: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """What one table of the configuration asks for. ``where``: the option that has its names."""

    names: tuple[str, ...]
    key_types: tuple[KeyType, ...] = (KeyType.P256,)
    where: str = "domains"


def fold(name: str) -> str:
    """As a certificate has it: lower case, without the final dot, non-ASCII labels as IDNA 2008 has them.
    Raises BadName."""
    if not name.strip():
        raise BadName("is empty", "remove it")
    _require_bare(name)
    is_wildcard = name.startswith(WILDCARD)
    base = name.removeprefix(WILDCARD).removesuffix(".")
    folded = _to_ascii(base)
    labels = folded.split(".")
    if len(labels) < 2:
        raise BadName("has no dot", "write the whole name, as mail.example.com")
    for label in labels:
        _require_label(label)
    whole = (WILDCARD if is_wildcard else "") + folded
    if len(whole) > MAX_NAME_CHARS:
        raise BadName(f"is longer than {MAX_NAME_CHARS} characters")
    return whole


def _require_bare(name: str) -> None:
    if "://" in name or "/" in name:
        raise BadName("is a URL", "write the host name alone")
    if name != name.strip() or any(char.isspace() for char in name):
        raise BadName("has spaces in it", "write one name in each pair of quotes")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        if ":" in name:
            raise BadName("has a port", "certificates are for names, not ports") from None
        return
    raise BadName("is an address", "certificates of an ACME authority are for names")


def _to_ascii(base: str) -> str:
    if base.isascii():
        return base.lower()
    import idna  # its tables are large, and few configurations need them

    try:
        encoded: bytes = idna.encode(base, uts46=True)
    except idna.IDNAError as error:
        raise BadName(f"is no host name: {error}") from error
    return encoded.decode("ascii")


def _require_label(label: str) -> None:
    if not label:
        raise BadName("has two dots in a row, or begins with one")
    if label == "*" or "*" in label:
        raise BadName("has a wildcard that is not its whole first label", "write *.example.com")
    if len(label) > MAX_LABEL_CHARS:
        raise BadName(f"has a part longer than {MAX_LABEL_CHARS} characters")
    if not _LABEL.fullmatch(label):
        raise BadName("is no host name", "letters, digits and hyphens, with dots between")


def resolve(
    groups: Sequence[Group], *, profile: str = "", can_prove_wildcards: bool = False
) -> tuple[tuple[Wanted, ...], tuple[Fault, ...]]:
    """The certificates of all groups, in their order, each once for every type of key; and what is wrong.
    Names that are wrong are left out."""
    wanted: dict[str, Wanted] = {}
    faults: list[Fault] = []
    for group in groups:
        names = _names(group, faults, can_prove_wildcards=can_prove_wildcards)
        for key_type in dict.fromkeys(group.key_types) if names else ():
            each = Wanted(names, key_type, profile)
            if each.id in wanted:
                text = f"the certificate for {each.label} is asked for twice"
                faults.append(Fault(group.where, text, "remove one", is_error=False))
            wanted.setdefault(each.id, each)
    return tuple(wanted.values()), tuple(faults)


def _names(group: Group, faults: list[Fault], *, can_prove_wildcards: bool) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for name in group.names:
        try:
            folded = fold(name)
        except BadName as error:
            faults.append(Fault(group.where, f'"{name}" {error}', error.cure))
            continue
        if folded in names:
            faults.append(Fault(group.where, f'"{name}" is listed twice', "remove one", is_error=False))
        if folded.startswith(WILDCARD) and not can_prove_wildcards:
            cure = "list each name, or set dns.provider"
            faults.append(Fault(group.where, f'"{name}": HTTP-01 challenges cannot prove wildcards', cure))
            continue
        names[folded] = None
    if len(names) > MAX_NAMES:
        cure = "put some of them into a [[tls.letsencrypt.certificate]] of their own"
        faults.append(Fault(group.where, f"{len(names)} names; a certificate has at most {MAX_NAMES}", cure))
    return tuple(sorted(names))
