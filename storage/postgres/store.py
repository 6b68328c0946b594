"""The mail store on PostgreSQL, put together from its parts."""

from __future__ import annotations

from .appending import Appending
from .copying import Copying
from .flags import FlagChanges
from .mailboxes import Mailboxes
from .messages import Messages
from .pool import Database
from .queue import MailboxQueue
from .views import Views

QUEUE_WAIT_S = 20.0  # longer than a lock timeout: the one in front gets its own chance to fail first


class PostgresMailStore(Mailboxes, Views, Appending, Messages, FlagChanges, Copying):
    """``storage.api.MailStore``. One per process, so that its queue sees all of the process's writers."""

    def __init__(self, db: Database, *, queue_wait_s: float = QUEUE_WAIT_S) -> None:
        super().__init__(db, MailboxQueue(queue_wait_s))
