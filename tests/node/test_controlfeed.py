"""``mailbox.changed``: what a command wrote is told to sessions, and only that."""

from __future__ import annotations

from typing import Any

import pytest

from node.control import ControlRefused
from node.controlfeed import feed_commands
from node.feed import LocalFeed
from protocols.ports import MailboxChanged
from storage.model import AccountId, MailboxId, ModSeq


async def test_sessions_hear_of_it() -> None:
    feed, heard = LocalFeed(), list[MailboxChanged]()
    feed.subscribe(MailboxId(2), heard.append)
    (changed,) = feed_commands(lambda: feed).values()
    await changed({"account": 1, "mailbox": 2, "modseq": 3})
    assert heard == [MailboxChanged(AccountId(1), MailboxId(2), ModSeq(3))]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"account": 1, "mailbox": 2},
        {"account": 1, "mailbox": "2", "modseq": 3},
        {"account": 1, "mailbox": True, "modseq": 3},
        {"account": 1, "mailbox": -2, "modseq": 3},
        {"account": 1, "mailbox": 2, "modseq": 2**63},
    ],
)
async def test_numbers_only(arguments: dict[str, Any]) -> None:
    (changed,) = feed_commands(LocalFeed).values()
    with pytest.raises(ControlRefused):
        await changed(arguments)
