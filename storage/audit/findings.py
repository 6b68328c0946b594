"""What an audit can find, what it means, and the report that it makes. Memory is bounded: samples are few."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

MAX_SAMPLES = 20  # of each kind


@dataclass(frozen=True, slots=True)
class Meaning:
    """``what`` is said of one or more; ``cure``: what a repair does, or an operator has to do."""

    what: str
    cure: str
    is_repairable: bool = True


class Kind(enum.Enum):
    """The value is the name in JSON."""

    MISSING_OBJECT = "missing_object"
    WRONG_SIZE = "wrong_size"
    DAMAGED_OBJECT = "damaged_object"
    ORPHAN_OBJECT = "orphan_object"
    FOREIGN_OBJECT = "foreign_object"
    NEWER_OBJECT = "newer_object"
    DOOMED_IN_USE = "doomed_in_use"
    STAGED_WITHOUT_BODY = "staged_without_body"
    STAGED_ELSEWHERE = "staged_elsewhere"
    STAGED_STUCK = "staged_stuck"
    DAMAGED_CACHE_FILE = "damaged_cache_file"
    UNUSED_CONTENT = "unused_content"
    LOST_MESSAGE = "lost_message"
    LOG_WITHOUT_MESSAGE = "log_without_message"
    COUNTERS = "counters"


_FROM_COPY = (
    "staged again from a sound copy in the local cache or staging of this machine, where there is one; else"
    " try on the other nodes, and restore a backup"
)

MEANINGS: dict[Kind, Meaning] = {
    Kind.MISSING_OBJECT: Meaning("bodies that should be in the object store are not", _FROM_COPY),
    Kind.WRONG_SIZE: Meaning("objects whose size cannot be right", _FROM_COPY),
    Kind.DAMAGED_OBJECT: Meaning(
        "objects that do not decode to the body they stand for (damaged, or sealed with a key that is not"
        " configured)",
        _FROM_COPY,
    ),
    Kind.ORPHAN_OBJECT: Meaning(
        "objects that nothing refers to", "queued for deletion; the cleaner deletes them in its next round"
    ),
    Kind.FOREIGN_OBJECT: Meaning("objects below bodies/ that are none of Sora's", "look at them", False),
    Kind.NEWER_OBJECT: Meaning(
        "objects younger than the database: it is a restored backup, or another installation uses the same"
        " bucket. No orphan is removed",
        "find out which; the bodies of mail that came after the backup are among them",
        False,
    ),
    Kind.DOOMED_IN_USE: Meaning("objects queued for deletion that messages need", "taken off the queue"),
    Kind.STAGED_WITHOUT_BODY: Meaning("staged bodies that are not where they should be", _FROM_COPY),
    Kind.STAGED_ELSEWHERE: Meaning(
        "bodies that have waited for hours on the disk of another node",
        "start that node, or bring its uploader.path to another one (docs/operations.md)",
        False,
    ),
    Kind.STAGED_STUCK: Meaning(
        "staged bodies that the uploader has given up on", "see the log of the uploader", False
    ),
    Kind.DAMAGED_CACHE_FILE: Meaning("damaged files in the local cache", "dropped; they are fetched again"),
    Kind.UNUSED_CONTENT: Meaning(
        "contents that no message refers to", "noted for the cleaner, which looks once more and deletes them"
    ),
    Kind.LOST_MESSAGE: Meaning(
        "messages that are neither in their mailbox nor deleted",
        "logged as deleted now, so that they can be restored",
    ),
    Kind.LOG_WITHOUT_MESSAGE: Meaning("entries of deleted messages without a message", "closed"),
    Kind.COUNTERS: Meaning("mailboxes whose counters differ from what is in them", "recounted"),
}


@dataclass(slots=True)
class Tally:
    """Of one kind."""

    found: int = 0
    repaired: int = 0
    samples: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.found - self.repaired


@dataclass(slots=True)
class Report:
    """Looked at, and found."""

    seen: dict[str, int] = field(default_factory=dict)
    tallies: dict[Kind, Tally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def saw(self, what: str, count: int = 1) -> None:
        self.seen[what] = self.seen.get(what, 0) + count

    def add(self, kind: Kind, sample: str, *, repaired: bool = False) -> None:
        tally = self.tallies.setdefault(kind, Tally())
        tally.found += 1
        tally.repaired += repaired
        if len(tally.samples) < MAX_SAMPLES:
            tally.samples.append(sample)

    def repaired(self, kind: Kind, count: int = 1) -> None:
        """Of those that were added before."""
        self.tallies[kind].repaired += count

    @property
    def left(self) -> int:
        """What is still wrong."""
        return sum(tally.left for tally in self.tallies.values())
