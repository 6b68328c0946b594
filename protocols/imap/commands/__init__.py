"""Every command the server knows, in one list; see ``registry`` for how to add one."""

from __future__ import annotations

from typing import Final

from ..registry import Command
from . import (
    append,
    capability,
    copy,
    enable,
    expunge,
    fetch,
    ident,
    idle,
    listing,
    login,
    mailboxes,
    metadata,
    search,
    select,
    status,
    store,
)

COMMANDS: Final[tuple[Command, ...]] = (
    capability.CAPABILITY,
    capability.NOOP,
    capability.LOGOUT,
    ident.ID,
    login.STARTTLS,
    login.AUTHENTICATE,
    login.LOGIN,
    enable.ENABLE,
    ident.NAMESPACE,
    listing.LIST,
    listing.LSUB,
    mailboxes.SUBSCRIBE,
    mailboxes.UNSUBSCRIBE,
    mailboxes.CREATE,
    mailboxes.DELETE,
    mailboxes.RENAME,
    status.STATUS,
    metadata.GETMETADATA,
    metadata.SETMETADATA,
    append.APPEND,
    idle.IDLE,
    select.SELECT,
    select.EXAMINE,
    select.UNSELECT,
    select.CLOSE,
    capability.CHECK,
    expunge.EXPUNGE,
    fetch.FETCH,
    search.SEARCH,
    store.STORE,
    copy.COPY,
    copy.MOVE,
)
