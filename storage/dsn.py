"""What a sender wants to be told of the fate of a message: the parameters of RFC 3461, as they came. Pure.

They are checked where they come in and kept as they stood on the wire, because they are handed on so.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


class Notify(enum.Enum):
    """RFC 3461 §4.1."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@dataclass(frozen=True, slots=True)
class RecipientDsn:
    """Of one recipient. ``notify`` None: nothing was said, which means failures and perhaps delays;
    ``orcpt``: ``type;xtext``, empty when not given."""

    notify: frozenset[Notify] | None = None
    orcpt: str = ""

    @property
    def wants_success(self) -> bool:
        return self.notify is not None and Notify.SUCCESS in self.notify

    @property
    def wants_failure(self) -> bool:
        return self.notify is None or Notify.FAILURE in self.notify


@dataclass(frozen=True, slots=True)
class MessageDsn:
    """Of the message. ``ret``: ``FULL``, ``HDRS`` or empty; ``envid``: xtext or empty."""

    ret: str = ""
    envid: str = ""


NO_WISHES: Final = RecipientDsn()
NO_MESSAGE_WISHES: Final = MessageDsn()


@dataclass(frozen=True, slots=True)
class DsnRequest:
    """Of a message that is handed on. ``recipients``: in the order of its recipients, or empty: nobody wants
    anything special."""

    message: MessageDsn = NO_MESSAGE_WISHES
    recipients: tuple[RecipientDsn, ...] = ()

    def of(self, position: int) -> RecipientDsn:
        return self.recipients[position] if self.recipients else NO_WISHES

    def only(self, positions: Sequence[int]) -> DsnRequest:
        """For a transaction with some of the recipients."""
        return DsnRequest(self.message, tuple(self.of(at) for at in positions))

    def __bool__(self) -> bool:
        """Whether anything is wanted at all."""
        return self.message != NO_MESSAGE_WISHES or any(each != NO_WISHES for each in self.recipients)


NO_REQUEST: Final = DsnRequest()


def plain_request(request: DsnRequest) -> dict[str, Any]:
    """In types that JSON has."""
    return {
        "ret": request.message.ret,
        "envid": request.message.envid,
        "recipients": [[notify_words(each), each.orcpt] for each in request.recipients],
    }


def request_from(plain: Mapping[str, Any]) -> DsnRequest:
    """What ``plain_request`` made. Raises ValueError, KeyError, TypeError."""
    recipients = tuple(
        RecipientDsn(notify_from(str(words)), str(orcpt)) for words, orcpt in plain["recipients"]
    )
    return DsnRequest(MessageDsn(str(plain["ret"]), str(plain["envid"])), recipients)


def notify_words(wishes: RecipientDsn) -> str:
    """The value of NOTIFY; empty when it was not given."""
    if wishes.notify is None:
        return ""
    return ",".join(each.value for each in Notify if each in wishes.notify)


def notify_from(words: str) -> frozenset[Notify] | None:
    """Raises ValueError: unknown words, one twice, or NEVER with others."""
    if not words:
        return None
    listed = [Notify(word.upper()) for word in words.split(",")]
    found = frozenset(listed)
    if len(found) != len(listed) or (Notify.NEVER in found and len(found) > 1):
        raise ValueError("NOTIFY contradicts itself")
    return found
