"""Challenges that this node can answer, as orders see it."""

from __future__ import annotations

from typing import Protocol


class Answers(Protocol):
    """What was added is answered for an hour."""

    def add(self, token: str, key_authorisation: str) -> None: ...

    def remove(self, token: str) -> None:
        """Harmless when it is not there."""
        ...

    def expect(self) -> None:
        """Some node may be about to order: for a while the bucket may have answers that are not here."""
        ...

    def know_account(self, key_json: str) -> None:
        """The key of our account, with which any challenge of ours can be answered."""
        ...
