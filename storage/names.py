"""Mailbox names: one canonical spelling and the rules that a new name must keep."""

from __future__ import annotations

import unicodedata

from .errors import InvalidName, NotFound
from .model import DELIMITER, INBOX, MailboxId

MAX_COMPONENT_CHARS = 255
MAX_NAME_CHARS = 1000


def canonical(name: str) -> str:
    """The spelling under which a name is stored and found; never raises.

    NFC, and INBOX as first component in capitals however it was written (RFC 9051 §5.1).
    """
    head, delimiter, rest = unicodedata.normalize("NFC", name).partition(DELIMITER)
    if head.upper() == INBOX and head.isascii():
        head = INBOX
    return head + delimiter + rest


def checked(name: str) -> str:
    """The canonical spelling of a name to be created. Raises InvalidName."""
    name = canonical(name)
    if len(name) > MAX_NAME_CHARS:
        raise InvalidName(f"mailbox name longer than {MAX_NAME_CHARS} characters")
    for component in name.split(DELIMITER):
        if not component:
            raise InvalidName("mailbox name with an empty component")
        if len(component) > MAX_COMPONENT_CHARS:
            raise InvalidName(f"component of a mailbox name longer than {MAX_COMPONENT_CHARS} characters")
        if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in component):
            raise InvalidName("mailbox name with a control character")
    return name


def sought(name: str) -> str:
    """The canonical spelling of a name to be looked up. Raises NotFound for one that cannot exist."""
    try:
        return checked(name)
    except InvalidName as error:
        raise NotFound(f"no mailbox {name!r}") from error


def with_parents(name: str) -> list[str]:
    """``a/b/c`` to ``a``, ``a/b``, ``a/b/c``."""
    parts = name.split(DELIMITER)
    return [DELIMITER.join(parts[: count + 1]) for count in range(len(parts))]


def is_inside(name: str, parent: str) -> bool:
    return name.startswith(parent + DELIMITER)


def object_id(mailbox_id: MailboxId) -> str:
    """The mailbox's OBJECTID (RFC 8474 §5.1): it survives renames."""
    return f"F{mailbox_id}"
