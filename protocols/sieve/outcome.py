"""What scripts decided about one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Rule:
    """Which command of which script; ``because`` is the line of the innermost condition that was true for
    it, 0 when there was none."""

    script: str
    line: int
    because: int = 0


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A message that scripts have changed (RFC 5293, RFC 5703): its own octets."""

    header: bytes  # without the empty line
    body: bytes | None  # None: as it came


@dataclass(frozen=True, slots=True)
class Keep:
    """Into the INBOX. ``rule`` None: the implicit keep."""

    rule: Rule | None
    flags: tuple[str, ...] = ()
    message: Rewritten | None = None


@dataclass(frozen=True, slots=True)
class FileInto:
    """Into the mailbox with ``mailbox_id`` if there is one, else of ``special_use`` if there is one, else
    ``mailbox`` (RFC 9042 §3, RFC 8579 §4)."""

    rule: Rule
    mailbox: str
    flags: tuple[str, ...] = ()
    create: bool = False
    special_use: str = ""  # as spelled, with its backslash
    mailbox_id: str = ""
    message: Rewritten | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    rule: Rule


@dataclass(frozen=True, slots=True)
class Redirect:
    """``list_name``: to the members of that list (RFC 6134 §2.5); ``address`` is empty then."""

    rule: Rule
    address: str
    list_name: str = ""
    message: Rewritten | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """``extended``: by ereject, which never accepts a message to send a report (RFC 5429 §2.1)."""

    rule: Rule
    reason: str
    extended: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """Where a copy of what is sent goes (RFC 8580)."""

    mailbox: str
    flags: tuple[str, ...] = ()
    create: bool = False
    special_use: str = ""
    mailbox_id: str = ""


@dataclass(frozen=True, slots=True)
class Vacation:
    """RFC 5230 §4, RFC 6131. Whether it is sent, its memory of senders decides."""

    rule: Rule
    reason: str
    period_s: int
    subject: str = ""
    sender: str = ""
    addresses: tuple[str, ...] = ()
    handle: str = ""
    is_mime: bool = False
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class Notify:
    """RFC 5435 §3."""

    rule: Rule
    method: str
    message: str = ""
    sender: str = ""
    importance: int = 2
    options: tuple[str, ...] = ()
    copy: Copy | None = None


Action: TypeAlias = Keep | FileInto | Discard | Redirect | Reject | Vacation | Notify


@dataclass(frozen=True, slots=True)
class Seen:
    """To be remembered once the message is delivered (RFC 7352 §3)."""

    key: bytes  # 32 octets
    period_s: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """``actions`` in the order in which scripts took them, the implicit keep at the end as a Keep without
    rule. ``fault`` says why a script was given up; its actions are not among these then, and a keep is."""

    actions: tuple[Action, ...]
    seen: tuple[Seen, ...] = ()
    fault: str = ""
    trace: tuple[str, ...] = ()
    steps: int = 0
    notes: tuple[str, ...] = field(default=())  # for the log

    @property
    def implicit_keep(self) -> bool:
        return any(isinstance(action, Keep) and action.rule is None for action in self.actions)
