"""Lists of addresses that scripts refer to by name (RFC 6134), and what membership means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from storage.addresses import BadAddress, canonical

# The lists of a site are tag URIs (RFC 4151) of this beginning; what follows is the name of a list.
PREFIX: Final = "tag:sora,2026:"


@dataclass(frozen=True, slots=True)
class AddressList:
    """``members``: canonical addresses. ``domains``: of which all addresses are members."""

    members: frozenset[str]
    domains: frozenset[str] = frozenset()

    def has(self, value: str) -> bool:
        """Whether an address is one of them; case does not count (RFC 6134 §2.4)."""
        try:
            address = canonical(value.strip())
        except BadAddress:
            return False
        return address in self.members or address.rpartition("@")[2] in self.domains


class ListSource(Protocol):
    async def find(self, name: str) -> AddressList | None:
        """The list of that name as scripts spell it, None: there is none. Raises Unavailable."""
        ...


def read_list(lines: Iterable[str]) -> tuple[AddressList, list[int]]:
    """One address a line, ``@example.org`` for all of a domain; ``#`` begins a remark. Also the numbers of
    lines that are neither."""
    members, domains, bad = set(), set(), []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            if text.startswith("@"):
                domains.add(canonical(f"x{text}").partition("@")[2])
            elif text:
                members.add(canonical(text))
        except BadAddress:
            bad.append(number)
    return AddressList(frozenset(members), frozenset(domains)), bad
