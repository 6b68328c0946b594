"""mboxmetadata and servermetadata (RFC 5490 §4, §5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bound import Bound
from ..matching import MATCH_TAGS, Matching
from ..questions import Metadata
from ..spec import STRING, STRINGS, Extension, Holds, Slot, Test

if TYPE_CHECKING:
    from ..run import Run


def _metadata(bound: Bound) -> Holds:
    mailbox = bound.text("mailbox") if bound.has("mailbox") else None
    entry = bound.text("entry")
    matching = Matching(bound, bound.texts("keys"))

    def holds(run: Run) -> bool:
        value = run.ask(Metadata(entry.value(run).lower(), mailbox.value(run) if mailbox else ""))
        return value is not None and matching.holds(run, [value])

    return holds


def _metadataexists(bound: Bound) -> Holds:
    mailbox = bound.text("mailbox") if bound.has("mailbox") else None
    entries = bound.texts("entries")

    def holds(run: Run) -> bool:
        name = mailbox.value(run) if mailbox else ""
        return all(run.ask(Metadata(each.lower(), name)) is not None for each in entries.values(run))

    return holds


_MAILBOX, _ENTRY, _ENTRIES = Slot("mailbox", STRING), Slot("entry", STRING), Slot("entries", STRINGS)
_KEYS = Slot("keys", STRINGS)

EXTENSIONS = (
    Extension(
        "mboxmetadata",
        tests=(
            Test("metadata", _metadata, (_MAILBOX, _ENTRY, _KEYS), MATCH_TAGS),
            Test("metadataexists", _metadataexists, (_MAILBOX, _ENTRIES)),
        ),
    ),
    Extension(
        "servermetadata",
        tests=(
            Test("servermetadata", _metadata, (_ENTRY, _KEYS), MATCH_TAGS),
            Test("servermetadataexists", _metadataexists, (_ENTRIES,)),
        ),
    ),
)
