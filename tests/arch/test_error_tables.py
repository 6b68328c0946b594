"""Every storage error has a row of its own in every protocol's table of replies."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from storage.errors import StorageError

# To add a protocol: the module that holds its ``ERRORS`` table, by StorageError class.
TABLES = (
    "protocols.imap.replies",
    "protocols.lmtp.replies",
    "protocols.managesieve.replies",
    "protocols.pop3.replies",
)


def family(root: type[StorageError]) -> Iterator[type[StorageError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from family(kind)


@pytest.mark.parametrize("module", TABLES)
def test_table_has_a_row_for_every_storage_error(module: str) -> None:
    table = importlib.import_module(module).ERRORS
    missing = [kind.__name__ for kind in family(StorageError) if kind not in table]
    assert not missing, f"{module}.ERRORS lacks {missing}"


def test_transient_errors_keep_the_message_at_the_sender() -> None:
    """A temporary failure must never become a bounce."""
    table = importlib.import_module("protocols.lmtp.replies").ERRORS
    wrong = [kind.__name__ for kind, reply in table.items() if kind.transient and reply.code >= 500]
    assert not wrong
