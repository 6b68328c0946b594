"""Foreign exceptions to storage errors: the one place that knows asyncpg's and the socket layer's.

What an exception means depends on what was under way. A connection lost while reading, or before a
transaction's COMMIT, wrote nothing: ``Unavailable``. The same loss during a statement that commits by
itself, or during COMMIT, leaves the outcome open: ``CommitUnknown``.
Constraint violations and syntax errors are not translated: the statement's author handles or fixes them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from storage.errors import CommitUnknown, StagingFull, StorageError, Unavailable


class Phase(enum.Enum):
    """What a failure interrupted."""

    NOTHING_WRITTEN = "nothing written"  # connecting, reading, inside an open transaction
    COMMITTING = "committing"  # COMMIT, or a statement that commits by itself


RETRYABLE = frozenset({"40001", "40P01"})  # serialization failure, deadlock: rolled back, safe to run again
READ_ONLY_SERVER = "25006"
_FULL = frozenset({"53100"})
# The server says so itself: the statement was rolled back.
_ROLLED_BACK = RETRYABLE | {"55P03", "57014", READ_ONLY_SERVER, "53000", "53200", "53300", "53400", "57P03"}
_LOSSES = (
    asyncpg.InterfaceError,
    # a standby where a primary is wanted; a farewell of the server that came between two statements
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)
# Prefixes of states in which the server or the way to it is broken.
_BROKEN = ("08", "28", "57P", "58", "XX")


def translate(error: BaseException, phase: Phase) -> StorageError | None:
    """The storage error for ``error``, or None when it is not one of the outside world's."""
    if isinstance(error, asyncpg.PostgresError):
        return _from_sqlstate(error, phase)
    if isinstance(error, _LOSSES):
        return _lost(error, phase)
    return None


def _from_sqlstate(error: asyncpg.PostgresError, phase: Phase) -> StorageError | None:
    state = error.sqlstate or ""
    if state in _FULL:
        return StagingFull(f"PostgreSQL has no disk space: {error}")
    if state in _ROLLED_BACK:
        return Unavailable(f"PostgreSQL: {error} ({state})")
    if state.startswith(_BROKEN):
        return _lost(error, phase)
    return None


def _lost(error: BaseException, phase: Phase) -> StorageError:
    text = f"{type(error).__name__}: {error}"
    if phase is Phase.COMMITTING:
        return CommitUnknown(f"connection to PostgreSQL lost while committing: {text}")
    return Unavailable(f"PostgreSQL cannot be reached: {text}")


def lost_connection(error: BaseException) -> bool:
    """Whether the server, or the way to it, went away."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(("08", "57P"))
    return isinstance(
        error, asyncpg.InterfaceError | asyncpg.InternalClientError | ConnectionError | EOFError
    )


@contextmanager
def translated(phase: Phase) -> Iterator[None]:
    """Raise the storage error in place of a foreign one that escapes the block."""
    try:
        yield
    except Exception as error:
        ours = translate(error, phase)
        if ours is None:
            raise
        raise ours from error
