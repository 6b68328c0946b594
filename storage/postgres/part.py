"""What every part of the mail store stands on."""

from __future__ import annotations

from collections.abc import Iterable

from .pool import Database, Record
from .queue import MailboxQueue


class Part:
    """A family of methods of ``PostgresMailStore``, each with its statements beside it."""

    def __init__(self, db: Database, queue: MailboxQueue) -> None:
        self.db = db
        self.queue = queue

    def _wrote_accounts(self, found: Iterable[Record]) -> None:
        """A write names the mailboxes it touches; which accounts these belong to, its rows tell."""
        for account_id in {row["account_id"] for row in found}:
            self.db.wrote(account=account_id)
