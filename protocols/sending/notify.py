"""notify by mailto (RFC 5435, RFC 5436): word of a message to other addresses.

Decisions:

* As with vacation, what is sent is remembered before it is queued, and trouble with memory or queue is a note
  in the log, never a delay of the message.
* One address hears of one message once, however many ``notify`` actions name it (RFC 5436 §2.7).
* Messages that were sent automatically notify nobody, so that notifications make none. Null senders do, and
  the notification has the null path then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from protocols.ports import MailKind, Outbox
from protocols.sieve.fields import Fields
from protocols.sieve.outcome import FileInto, Notify
from storage.addresses import BadAddress, canonical
from storage.errors import StorageError

from .answering import Author, author_of, is_automatic, subject_of, thread_of
from .composing import (
    Letter,
    address_field,
    checked_address,
    date_field,
    id_field,
    ids_field,
    message_ids,
    one_line,
    raw_field,
    references,
    text_field,
)
from .copying import filed
from .entity import text_entity
from .large import beside_loop
from .mailto import Mailto, parse_mailto
from .means import Means
from .occasion import Occasion, Sent
from .once import Errand, TooMany, send_once

log = logging.getLogger("sora.sieve")

IMPORTANCE = {1: ("high", "1"), 3: ("low", "5")}  # 2 is what mail without a word about it has
HEARD_FROM_CHARS = 200


@dataclass(frozen=True, slots=True)
class Notice:
    """One action, with the addresses that are to hear of the message by it."""

    action: Notify
    target: Mailto
    number: int  # among those of the message

    @property
    def recipients(self) -> tuple[str, ...]:
        return (*self.target.to, *self.target.cc)


async def notify(means: Means, occasion: Occasion, actions: Sequence[Notify]) -> Sent:
    """A row of ``sending.SENDERS``. Never raises StorageError."""
    if means.outbox is None:
        return Sent(notes=("notify: this node has no relay, nobody is notified",))
    fields = Fields(occasion.header)
    if await beside_loop(occasion, lambda: is_automatic(fields)):
        log.info("account %d: no notification, the message was sent automatically", occasion.account_id)
        return Sent()
    notes: list[str] = []
    copies: list[FileInto] = []
    for notice in _notices(actions, notes):
        try:
            filed_copies, said = await _send(means, means.outbox, occasion, fields, notice)
        except (StorageError, BadAddress, TooMany) as error:
            notes.append(f"notify: {', '.join(notice.recipients)} not notified: {error}")
        else:
            copies += filed_copies
            notes += said
    return Sent(copies=tuple(copies), notes=tuple(notes))


def _notices(actions: Sequence[Notify], notes: list[str]) -> list[Notice]:
    found, heard = [], set[str]()
    for number, action in enumerate(actions):
        target = parse_mailto(action.method)
        if target is None:
            notes.append(f"notify: {action.method[:100]!r} names nobody")
            continue
        if target.ignored:
            notes.append(f"notify: ignored in the URI: {', '.join(target.ignored)}")
        left = replace(target, to=_unheard(target.to, heard), cc=_unheard(target.cc, heard))
        if left.to or left.cc:
            found.append(Notice(action, left, number))
    return found


def _unheard(addresses: Sequence[str], heard: set[str]) -> tuple[str, ...]:
    new = tuple(each for each in addresses if canonical(each) not in heard)
    heard.update(map(canonical, new))
    return new


async def _send(
    means: Means, outbox: Outbox, occasion: Occasion, fields: Fields, notice: Notice
) -> tuple[tuple[FileInto, ...], tuple[str, ...]]:
    """Copies and notes. Raises StorageError, BadAddress, TooMany: nothing was sent."""
    action, limits = notice.action, means.limits
    author = author_of(occasion, action.sender, occasion.recipient)
    cause = occasion.key("notify", str(notice.number), *notice.recipients)
    errand = Errand(
        kind=MailKind.NOTIFY,
        key=cause,
        period_s=0,
        cause=cause,
        counted=[occasion.key("notify", each) for each in notice.recipients],
        limit=limits.notifications,
        window_s=limits.notifications_window_s,
        sender=checked_address(author.address) if occasion.sender else "",
        recipients=notice.recipients,
        compose=lambda: compose(occasion, fields, notice, author),
    )
    letter = await send_once(means, outbox, occasion, errand)
    if letter is None:
        return (), ()
    return filed(action.rule, action.copy, letter), author.notes


def compose(occasion: Occasion, fields: Fields, notice: Notice, author: Author) -> Letter:
    """RFC 5436 §2.7. Raises BadAddress."""
    action, target = notice.action, notice.target
    name, before = thread_of(occasion.header)
    known = [*message_ids(before), *message_ids(name)[:1]]
    entity = text_entity(_summary(fields) if target.body is None else target.body)
    header = [
        _auto_submitted(occasion),
        date_field(occasion.received_at),
        address_field("From", [(author.name, author.address)]),
        address_field("To", [("", each) for each in target.to]) if target.to else b"",
        address_field("Cc", [("", each) for each in target.cc]) if target.cc else b"",
        text_field("Subject", _subject(action, target, fields)),
        id_field(occasion.key("notify", "id", str(notice.number)), occasion.hostname),
        ids_field("References", references(known)),
        *(text_field(spelled, value) for spelled, value in _further(action, target)),
        entity.fields,
    ]
    return Letter(b"".join(header), entity.body)


def _auto_submitted(occasion: Occasion) -> bytes:
    """RFC 5436 §2.7.1. The owner only where the address can stand in quotes as it is."""
    owner = occasion.primary_address
    known = owner.isascii() and not set('"\\') & set(owner)
    lines = f'auto-notified;\r\n\towner-email="{one_line(owner)}"' if known else "auto-notified"
    return raw_field("Auto-Submitted", lines)


def _subject(action: Notify, target: Mailto, fields: Fields) -> str:
    return action.message or target.subject or subject_of(fields)


def _further(action: Notify, target: Mailto) -> list[tuple[str, str]]:
    """What the URI says, and what the importance makes of it (RFC 5436 §2.4)."""
    said = dict(target.fields)
    if action.importance in IMPORTANCE:
        word, number = IMPORTANCE[action.importance]
        said = {"Importance": word, "X-Priority": number} | said
    return list(said.items())


def _summary(fields: Fields) -> str:
    """The body, where the URI has none."""
    lines = [(name, next(iter(fields.values(name)), "")) for name in ("from", "subject", "date")]
    return "".join(f"{name.title()}: {one_line(value, HEARD_FROM_CHARS)}\n" for name, value in lines if value)
