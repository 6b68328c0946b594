"""mailbox (RFC 5490 §3), special-use (RFC 8579), mailboxid (RFC 9042), fcc (RFC 8580)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bound import Bound
from ..questions import MailboxExists, MailboxIdExists, SpecialUseExists
from ..spec import STRING, STRINGS, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from ..run import Run

_SENDS = ("vacation", "notify")


def _mailboxexists(bound: Bound) -> Holds:
    names = bound.texts("names")

    def holds(run: Run) -> bool:
        return all(run.ask(MailboxExists(name)) for name in names.values(run))

    return holds


def _mailboxidexists(bound: Bound) -> Holds:
    ids = bound.texts("ids")

    def holds(run: Run) -> bool:
        return all(run.ask(MailboxIdExists(each)) for each in ids.values(run))

    return holds


def _specialuse_exists(bound: Bound) -> Holds:
    mailbox = bound.text("mailbox") if bound.has("mailbox") else None
    uses = bound.texts("uses")

    def holds(run: Run) -> bool:
        name = mailbox.value(run) if mailbox else ""
        return all(run.ask(SpecialUseExists(use.lower(), name)) for use in uses.values(run))

    return holds


def _for_copies(row: Row) -> dict[str, tuple[Row, ...]]:
    return dict.fromkeys(("fileinto", *_SENDS), (row,))


EXTENSIONS = (
    Extension(
        "mailbox",
        tests=(Test("mailboxexists", _mailboxexists, (Slot("names", STRINGS),)),),
        tags=_for_copies(Row("create")),
    ),
    Extension(
        "special-use",
        tests=(
            Test(
                "specialuse_exists",
                _specialuse_exists,
                (Slot("mailbox", STRING, optional=True), Slot("uses", STRINGS)),
            ),
        ),
        tags=_for_copies(Row("specialuse", STRING)),
    ),
    Extension(
        "mailboxid",
        tests=(Test("mailboxidexists", _mailboxidexists, (Slot("ids", STRINGS),)),),
        tags=_for_copies(Row("mailboxid", STRING)),
    ),
    Extension("fcc", tags={name: (Row("fcc", STRING),) for name in _SENDS}),
    Extension("imap4flags", tags={name: (Row("flags", STRINGS),) for name in _SENDS}),
)
