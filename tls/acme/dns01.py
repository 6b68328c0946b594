"""What DNS-01 needs of a name server (RFC 8555 §8.4): the contract of its providers."""

from __future__ import annotations

from typing import Protocol


class DnsFailed(Exception):
    """A record could not be changed or is not visible; the message is fit for an operator."""


class DnsProvider(Protocol):
    """TXT records of a zone. Several values of one name live side by side: a name and its wildcard share the
    record. Calls may come at the same time; each is bounded in time once it has begun. Raises DnsFailed."""

    async def publish(self, name: str, value: str) -> None:
        """``name``: absolute, without the final dot. Harmless when the value is there already."""
        ...

    async def withdraw(self, name: str, value: str) -> None:
        """This value alone; harmless when it is not there."""
        ...
