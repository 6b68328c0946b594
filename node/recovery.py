"""Where IMAP users find what was deleted, as the configuration wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.postgres.recovered import PostgresRecoveredMail

if TYPE_CHECKING:
    from .core import Core


def recovered_mail(core: Core) -> PostgresRecoveredMail | None:
    """None: the configuration switches it off."""
    root = core.config.cleanup.recovered_namespace
    return PostgresRecoveredMail(core.database, root) if root else None
