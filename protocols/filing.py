"""Where a message goes: from what scripts decided to mailboxes. Nothing that should be stored is lost: a
mailbox that is not there and may not be made is replaced by the INBOX.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from storage.errors import InvalidName, NotFound
from storage.flags import changed
from storage.model import AccountId, FlagChange, Flags, MailboxId, Recipient, SpecialUse, SystemFlag

from .mailboxnames import Known, MailboxNames
from .sieve.outcome import Action, FileInto, Keep, Rewritten

log = logging.getLogger("sora.sieve")

NO_FLAGS = Flags()
_BITS = {
    "\\seen": SystemFlag.SEEN,
    "\\answered": SystemFlag.ANSWERED,
    "\\flagged": SystemFlag.FLAGGED,
    "\\deleted": SystemFlag.DELETED,
    "\\draft": SystemFlag.DRAFT,
}

_NAMES = tuple((bit, f"\\{name[1:].capitalize()}") for name, bit in _BITS.items())


@dataclass(frozen=True, slots=True)
class Placement:
    """One copy. ``target`` None: the INBOX. ``message`` None: as it came."""

    mailbox_id: MailboxId
    flags: Flags = NO_FLAGS
    target: FileInto | None = None
    message: Rewritten | None = None


def flags_from(names: Sequence[str]) -> Flags:
    system, keywords = SystemFlag.NONE, set()
    for name in names:
        bit = _BITS.get(name.lower())
        if bit is None:
            keywords.add(name)
        else:
            system |= bit
    return Flags(system, frozenset(keywords))


def flag_names(flags: Flags) -> tuple[str, ...]:
    """As scripts spell them, in a stable order."""
    return (*(name for bit, name in _NAMES if flags.system & bit), *sorted(flags.keywords))


async def placements(
    names: MailboxNames,
    recipient: Recipient,
    actions: Sequence[Action],
    created: Callable[[MailboxId], None],
) -> list[Placement]:
    """The copies to be written; actions that mean the same mailbox make one. ``created`` is told of a new
    mailbox. Raises StorageError."""
    found: dict[MailboxId, Placement] = {}
    for action in actions:
        if isinstance(action, Keep):
            place = Placement(recipient.inbox_id, flags_from(action.flags), None, action.message)
        elif isinstance(action, FileInto):
            mailbox_id = await locate(names, recipient.account_id, action, created)
            target = None if mailbox_id is None else action
            flags = flags_from(action.flags)
            place = Placement(mailbox_id or recipient.inbox_id, flags, target, action.message)
        else:
            continue
        before = found.get(place.mailbox_id)
        found[place.mailbox_id] = place if before is None else _joined(before, place)
    return list(found.values())


def _joined(before: Placement, after: Placement) -> Placement:
    """As ``sieve.verdict.merged``, which did not know that they mean one mailbox."""
    return replace(before, flags=with_flags(before.flags, after.flags), message=after.message)


def with_flags(flags: Flags, more: Flags) -> Flags:
    return changed(flags, FlagChange.ADD, more)


async def locate(
    names: MailboxNames,
    account_id: AccountId,
    target: FileInto,
    created: Callable[[MailboxId], None],
    *,
    fresh: bool = False,
) -> MailboxId | None:
    """The mailbox that is meant, made if it may be; None: there is none. Raises StorageError."""
    known = await names.of(account_id, fresh=fresh)
    mailbox_id = _known(known, target)
    if mailbox_id is None and not fresh:  # it may be a new one
        mailbox_id = _known(await names.of(account_id, fresh=True), target)
    if mailbox_id is not None:
        return mailbox_id
    if not target.create:
        log.info("account %d: no mailbox %r, kept in INBOX", account_id, target.mailbox)
        return None
    try:
        mailbox_id = await names.create(account_id, target.mailbox, _use(target.special_use))
    except (InvalidName, NotFound) as error:
        log.info("account %d: %r cannot be made (%s), kept in INBOX", account_id, target.mailbox, error)
        return None
    created(mailbox_id)
    return mailbox_id


def _use(special_use: str) -> SpecialUse | None:
    """RFC 8579 §4: a mailbox that is made for a use has it."""
    value = special_use.lower().removeprefix("\\")
    return next((each for each in SpecialUse if each.value == value), None)


def _known(known: Known, target: FileInto) -> MailboxId | None:
    """RFC 9042 §3, RFC 8579 §4: the id first, then the use, then the name."""
    found = known.by_object_id.get(target.mailbox_id)
    found = found or known.by_use.get(target.special_use.lower())
    found = found or known.named(target.mailbox)
    return found.id if found else None
