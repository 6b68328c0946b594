"""One message that a user has judged by moving it, as the filter is told of it. Pure.

The request is a JSON object:

* ``class``: ``spam`` or ``ham``
* ``account``: primary address of the user
* ``from_mailbox``, ``to_mailbox``
* ``message``: base64 of the message, in which the bodies of attachments may be missing
* ``size``: octets of the message as it is stored
* ``left_out``: how many attachments are missing
* ``hash``: SHA-256 of what was received, in hex: the same message taught again is recognised by it
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass

from storage.mime.structure import Part
from storage.model import AccountId, ContentHash, MailboxId, SpecialUse, Uid


class Judgement(enum.Enum):
    SPAM = "spam"
    HAM = "ham"


def judgement(source: SpecialUse | None, target: SpecialUse | None) -> Judgement | None:
    """What a user says by moving a message; None: nothing. Who empties Junk into the Trash says nothing."""
    if source is target:
        return None
    if target is SpecialUse.JUNK:
        return Judgement.SPAM
    if source is SpecialUse.JUNK and target is not SpecialUse.TRASH:
        return Judgement.HAM
    return None


@dataclass(frozen=True, slots=True)
class Lesson:
    """Where the message is now, and what it is."""

    judgement: Judgement
    account_id: AccountId
    account: str
    from_mailbox: str
    to_mailbox: str
    mailbox_id: MailboxId
    uid: Uid


def without_attachments(message: bytes, offset: int, root: Part, limit_bytes: int) -> tuple[bytes, int]:
    """The message, where the bodies of attachments with more than ``limit_bytes`` are empty; how many are.

    ``offset`` is where the content begins in ``message``, from which offsets in ``root`` count.
    """
    cut = [part for part in _attachments(root) if part.size_bytes > limit_bytes]
    if not cut:
        return message, 0
    pieces, at = [], 0
    for part in cut:
        pieces.append(message[at : offset + part.body_start])
        at = offset + part.body_end
    pieces.append(message[at:])
    return b"".join(pieces), len(cut)


def _attachments(part: Part) -> Iterator[Part]:
    """In the order of their places; none lies within another."""
    is_attached = part.disposition is not None and part.disposition[0].upper() == b"ATTACHMENT"
    if part.is_multipart or (part.is_message and not is_attached):
        for child in part.children:
            yield from _attachments(child)
    elif is_attached or not part.is_readable:
        yield part


def encode_lesson(
    lesson: Lesson, message: bytes, *, size_bytes: int, left_out: int, digest: ContentHash
) -> bytes:
    return json.dumps(
        {
            "class": lesson.judgement.value,
            "account": lesson.account,
            "from_mailbox": lesson.from_mailbox,
            "to_mailbox": lesson.to_mailbox,
            "message": base64.b64encode(message).decode("ascii"),
            "size": size_bytes,
            "left_out": left_out,
            "hash": digest.hex(),
        }
    ).encode("ascii")
