"""What storage errors are in IMAP's words (RFC 5530 response codes).

A class without a row takes that of its nearest ancestor that has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from storage import errors

from .registry import No

if TYPE_CHECKING:
    from .view import SessionView

ERRORS: Final[Mapping[type[errors.StorageError], No]] = {
    errors.StorageError: No("Internal error, please try again later", b"SERVERBUG"),
    errors.NotFound: No("There is no such mailbox or message", b"NONEXISTENT"),
    errors.AlreadyExists: No("It exists already", b"ALREADYEXISTS"),
    errors.NotPermitted: No("That may not be done", b"CANNOT"),
    errors.ReadOnly: No("Nothing can be changed there; copy messages to a mailbox of yours", b"NOPERM"),
    errors.InvalidName: No("The mailbox name cannot be used", b"CANNOT"),
    errors.OverQuota: No("Over quota", b"OVERQUOTA"),
    errors.TooBig: No("The message is too large", b"TOOBIG"),
    errors.Conflict: No("It was changed meanwhile", b"INUSE"),
    errors.Unavailable: No("Temporarily unavailable, please try again later", b"UNAVAILABLE"),
    errors.StagingFull: No("No room for the message right now, please try again later", b"UNAVAILABLE"),
    errors.CommitUnknown: No("The outcome is not known, please check and try again", b"UNAVAILABLE"),
    errors.Corrupt: No("Stored data is damaged; the administrator has been told", b"CORRUPTION"),
}


READ_ONLY: Final = No("The mailbox is read-only")


def refusal_to_change(view: SessionView) -> No | None:
    """Why nothing may be changed in the selected mailbox; None when it may."""
    if not view.read_only:
        return None
    return ERRORS[errors.ReadOnly] if view.mailbox.is_read_only else READ_ONLY


def reply_for(error: errors.StorageError) -> No:
    for cls in type(error).__mro__:
        if cls in ERRORS:
            return ERRORS[cls]
    raise AssertionError("StorageError itself has a row")
