"""What scripts may ask about the world. An answer that is not at hand is an exception: the caller finds it
out and evaluates again, so that the engine never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class MessageContent:
    """The whole message as it came, and its parts: ``tuple[bytes | mmap, storage.mime.structure.Part]``."""


@dataclass(frozen=True, slots=True)
class MailboxExists:
    """Answer: bool, whether mail can be filed there (RFC 5490 §3.1)."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class MailboxIdExists:
    """Answer: bool (RFC 9042 §4)."""

    mailbox_id: str


@dataclass(frozen=True, slots=True)
class SpecialUseExists:
    """Answer: bool, whether a mailbox (that one, if it is given) has the use (RFC 8579 §3)."""

    use: str
    mailbox: str = ""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Answer: str or None (RFC 5490 §3.3); an empty ``mailbox`` stands for the server."""

    entry: str
    mailbox: str = ""


@dataclass(frozen=True, slots=True)
class SeenBefore:
    """Answer: bool, whether the key is remembered (RFC 7352 §3)."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ListExists:
    """Answer: bool (RFC 6134 §2.7)."""

    name: str


@dataclass(frozen=True, slots=True)
class IsListed:
    """Answer: bool, whether the value is a member (RFC 6134 §2.4)."""

    name: str
    value: str


Question: TypeAlias = (
    MessageContent
    | MailboxExists
    | MailboxIdExists
    | SpecialUseExists
    | Metadata
    | SeenBefore
    | ListExists
    | IsListed
)
# Raises Unanswered.
Answers: TypeAlias = Callable[[Question], Any]


class Unanswered(Exception):
    """Nobody knows yet; find out and evaluate again."""

    def __init__(self, question: Question) -> None:
        super().__init__(str(question))
        self.question = question


class Known:
    """Answers from a dictionary."""

    def __init__(self, answers: dict[Question, Any] | None = None) -> None:
        self.answers = answers or {}

    def __call__(self, question: Question) -> Any:
        try:
            return self.answers[question]
        except KeyError:
            raise Unanswered(question) from None
