"""The same thing decided twice is done once (RFC 5228 §2.10.3)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from .outcome import Action, Discard, FileInto, Keep, Redirect, Reject


def merged(actions: Sequence[Action], *, keeps_in_inbox: bool = True) -> list[Action]:
    """In order. Of two copies for one place one is left, with the flags of both and the later content.
    Unless ``keeps_in_inbox``, what is kept stays where it is and every filing is another copy."""
    found: dict[Hashable, Action] = {}
    for action in actions:
        key = _key(action) if keeps_in_inbox or not isinstance(action, Keep) else "stays"
        before = found.get(key)
        found[key] = action if before is None else _joined(before, action)
    return list(found.values())


def _key(action: Action) -> Hashable:
    if isinstance(action, Keep):
        return "INBOX"
    if isinstance(action, FileInto):
        if action.mailbox.upper() == "INBOX" and not (action.mailbox_id or action.special_use):
            return "INBOX"
        return ("file", action.mailbox, action.mailbox_id, action.special_use.lower())
    if isinstance(action, Redirect):
        return ("redirect", action.address.lower(), action.list_name)
    if isinstance(action, Discard | Reject):
        return type(action).__name__
    return ("send", action)


def _joined(before: Action, after: Action) -> Action:
    if isinstance(before, Keep | FileInto) and isinstance(after, Keep | FileInto):
        flags = tuple(dict.fromkeys((*before.flags, *after.flags)))
        return replace(before, flags=flags, message=after.message)
    return before
