"""What rows of messages weigh in memory, before and after they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from storage.model import MessageRow

# Of an ordinary message, header, envelope and structure together; the true size is noted once it is known.
ROW_BYTES: Final = 4 * 1024


def size_of_row(row: MessageRow) -> int:
    return len(row.prefix) + len(row.header) + len(row.envelope) + len(row.structure)


def size_of_rows(rows: Iterable[MessageRow]) -> int:
    return sum(map(size_of_row, rows))
