"""Ids and names of the mailboxes that show what was deleted, one for each day.

They are no rows of ``mailboxes``: an id below zero says whose they are and of which day, a name is the
namespace's root with the day behind it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from .model import DELIMITER, AccountId, MailboxId

DAY_BITS = 22  # all days a ``date`` can be; accounts have the other 41


def day_id(account_id: AccountId, day: date) -> MailboxId:
    return MailboxId(-(account_id << DAY_BITS | day.toordinal()))


def is_day(mailbox_id: MailboxId) -> bool:
    return mailbox_id < 0


def account_and_day(mailbox_id: MailboxId) -> tuple[AccountId, date]:
    """Of an id that ``day_id`` made."""
    account_id, ordinal = divmod(-mailbox_id, 1 << DAY_BITS)
    return AccountId(account_id), date.fromordinal(ordinal)


def day_of(moment: datetime) -> date:
    """The day, in UTC, under which what was deleted at ``moment`` is found."""
    return moment.astimezone(UTC).date()


def day_name(root: str, day: date) -> str:
    return f"{root}{DELIMITER}{day.isoformat()}"


def named_day(root: str, name: str) -> date | None:
    """The day that a name below ``root`` stands for; None for every other name."""
    head, delimiter, tail = name.rpartition(DELIMITER)
    if not delimiter or head != root:
        return None
    try:
        day = date.fromisoformat(tail)
    except ValueError:
        return None
    return day if day.isoformat() == tail else None  # one spelling only
