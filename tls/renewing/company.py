"""The other nodes, as certificate work sees them. None of it may be trusted with what must happen once."""

from __future__ import annotations

from typing import Protocol


class Company(Protocol):
    """Tells without waiting; what is told may be late or lost, and the bucket is the second way."""

    @property
    def name(self) -> str: ...

    def rank(self) -> int:
        """How many nodes come before this one when there is something to order; 0: it leads."""
        ...

    def has_majority(self) -> bool:
        """Whether more than half of all configured nodes are seen alive, this one included."""
        ...

    def tell_challenge(self, token: str, key_authorisation: str) -> None: ...

    def withdraw_challenge(self, token: str) -> None: ...

    def announce(self, wanted_id: str, fence: int) -> None:
        """There is a new generation in the bucket."""
        ...

    def hand_on(self, key: str, sealed: bytes) -> None:
        """A certificate that is not in the bucket, as it would be there, for the mirrors of the others."""
        ...

    def withdraw_copies(self, wanted_id: str, fence: int) -> None:
        """It is in the bucket, up to that fence: what this node has handed on of it is needed no more."""
        ...

    def ask_for(self, name: str) -> None:
        """A client of this node waits for a certificate of this name."""
        ...


class Alone:
    """A node that is in no cluster."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def rank(self) -> int:
        return 0

    def has_majority(self) -> bool:
        return True

    def tell_challenge(self, token: str, key_authorisation: str) -> None:
        """Nobody listens."""

    def withdraw_challenge(self, token: str) -> None:
        """Nobody listens."""

    def announce(self, wanted_id: str, fence: int) -> None:
        """Nobody listens."""

    def hand_on(self, key: str, sealed: bytes) -> None:
        """Nobody listens."""

    def withdraw_copies(self, wanted_id: str, fence: int) -> None:
        """Nobody listens."""

    def ask_for(self, name: str) -> None:
        """Nobody listens."""
