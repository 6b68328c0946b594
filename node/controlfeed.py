"""``mailbox.changed`` of the control socket: a command that wrote to the database tells the sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocols.ports import MailboxChanged
from storage.model import AccountId, MailboxId, ModSeq

from .control import Arguments, ControlRefused, Handler

if TYPE_CHECKING:
    from protocols.ports import ChangeFeed


def feed_commands(feed: Callable[[], ChangeFeed]) -> dict[str, Handler]:
    async def changed(arguments: Arguments) -> object:
        numbers = [arguments.get(name) for name in ("account", "mailbox", "modseq")]
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ControlRefused("usage", "account, mailbox and modseq must be whole numbers")
        account, mailbox, modseq = (int(str(number)) for number in numbers)
        feed().publish(MailboxChanged(AccountId(account), MailboxId(mailbox), ModSeq(modseq)))
        return {}

    return {"mailbox.changed": changed}
