"""vacation (RFC 5230, RFC 6131): an answer to who wrote, once in a while.

Decisions:

* **Remembered, then sent** (``once``): a lost reply may be the cost of that, never a second one.
* **No answer is worth a message.** Trouble with memory or queue is a note in the log; the message is
  delivered, and its sender's server not asked to try again. They are answered when they write next.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from protocols.fingerprint import fingerprint
from protocols.ports import MailKind, Outbox
from protocols.sieve.outcome import Vacation
from storage.addresses import BadAddress, canonical
from storage.errors import StorageError

from .answering import Author, Question, author_of, subject_of, thread_of, why_no_answer
from .composing import (
    Letter,
    address_field,
    checked_address,
    date_field,
    id_field,
    ids_field,
    message_ids,
    raw_field,
    references,
    text_field,
)
from .copying import filed
from .entity import Entity, mime_entity, text_entity
from .large import beside_loop
from .means import Means
from .occasion import Occasion, Sent
from .once import Errand, TooMany, send_once

log = logging.getLogger("sora.sieve")

# What hosts put before a sender's local part, another one each day, to know their own reports (BATV).
_TAG = re.compile(r"^(?:prvs=[0-9a-z]+=|btv1==[0-9a-z]+==)")


async def vacation(means: Means, occasion: Occasion, actions: Sequence[Vacation]) -> Sent:
    """A row of ``sending.SENDERS``. Never raises StorageError."""
    action = actions[0]  # the engine refuses a second one
    if means.outbox is None:
        return Sent(notes=("vacation: this node has no relay, nobody is answered",))
    question = Question(occasion, action)
    why = await beside_loop(occasion, lambda: why_no_answer(question))
    if why:
        log.info("account %d: no vacation answer, %s", occasion.account_id, why)
        return Sent()
    try:
        return await _answer(means, means.outbox, question)
    except (StorageError, BadAddress, TooMany) as error:
        return Sent(notes=(f"vacation: {occasion.sender} is not answered: {error}",))


async def _answer(means: Means, outbox: Outbox, question: Question) -> Sent:
    """Raises StorageError, BadAddress, TooMany: nothing was sent."""
    occasion, action, limits = question.occasion, question.vacation, means.limits
    author = author_of(occasion, action.sender, question.met or "")
    entity = mime_entity(action.reason) if action.is_mime else text_entity(action.reason)
    cause = occasion.key("vacation")
    errand = Errand(
        kind=MailKind.VACATION,
        key=memory_key(action, occasion.sender),
        period_s=action.period_s,
        cause=cause,
        counted=[cause],
        limit=limits.answers,
        window_s=limits.answers_window_s,
        sender="",
        recipients=[checked_address(occasion.sender)],
        compose=lambda: compose(question, author, entity),
    )
    letter = await send_once(means, outbox, occasion, errand)
    if letter is None:
        log.info("account %d: no vacation answer, its sender has had it", occasion.account_id)
        return Sent()
    return Sent(copies=filed(action.rule, action.copy, letter), notes=(*author.notes, *entity.notes))


def memory_key(action: Vacation, sender: str) -> bytes:
    """Who is answered with what (RFC 5230 §4.2). Raises BadAddress."""
    return fingerprint(b"", action.handle, _TAG.sub("", canonical(sender)))


def compose(question: Question, author: Author, entity: Entity) -> Letter:
    """The answer (RFC 5230 §5). Raises BadAddress."""
    occasion, action = question.occasion, question.vacation
    name, before = thread_of(occasion.header)
    answered = message_ids(name)[:1]
    header = [
        raw_field("Auto-Submitted", "auto-replied (vacation)"),
        date_field(occasion.received_at),
        address_field("From", [(author.name, author.address)]),
        address_field("To", [("", occasion.sender)]),
        text_field("Subject", action.subject or f"Auto: {subject_of(question.fields)}"),
        id_field(occasion.key("vacation", "id"), occasion.hostname),
        ids_field("In-Reply-To", answered),
        ids_field("References", references([*message_ids(before), *answered])) if answered else b"",
        # for responders that know no Auto-Submitted
        raw_field("Precedence", "bulk"),
        raw_field("X-Auto-Response-Suppress", "All"),
        entity.fields,
    ]
    return Letter(b"".join(header), entity.body)
