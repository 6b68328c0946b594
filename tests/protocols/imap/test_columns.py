"""Portions of a set, and columns over a mailbox from which others have expunged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import PeerError
from protocols.imap.columns import ViewColumns, everything, present
from protocols.imap.seqset import SAVED, SeqSet, UidSet, parse_parts
from protocols.imap.view import SessionView
from storage.model import SystemFlag, Uid

from .selected import Stored, select

UIDS = (2, 3, 5, 8, 13, 21, 34, 55)


def view(*gone: int) -> SessionView:
    messages = [Stored(uid, b"x" * uid, modseq=uid, flags=SystemFlag(uid % 32)) for uid in UIDS]
    made = select(messages).view
    if gone:
        made.shared.apply_own((), [Uid(uid) for uid in gone], made.shared.version, None)  # type: ignore[arg-type]
    return made


parts = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6).map(tuple)


@settings(max_examples=150, deadline=None)
@given(parts=parts, size=st.integers(1, 10), is_uid=st.booleans())
def test_portions_are_what_resolve_finds(parts: tuple[tuple[int, int], ...], size: int, is_uid: bool) -> None:
    window = view()
    numbers = UidSet(parts) if is_uid else SeqSet(parts)
    found = list(window.portions(numbers, size))
    assert [pair for portion in found for pair in portion] == window.resolve(numbers)
    assert all(len(portion) == size for portion in found[:-1])


def test_portions_of_the_saved_result_and_of_a_wrong_number() -> None:
    window = view()
    window.saved_result = (Uid(3), Uid(8), Uid(9), Uid(55))
    assert list(window.portions(SAVED, 2)) == [[(2, 3), (4, 8)], [(8, 55)]]
    with pytest.raises(PeerError):
        window.portions(SeqSet(parse_parts(b"1:3,9")), 2)


@pytest.mark.parametrize("gone", [(), (2,), (55,), (5, 8), (2, 5, 34)])
def test_columns_are_parallel_whatever_is_gone(gone: tuple[int, ...]) -> None:
    window = view(*gone)
    columns = ViewColumns(window)
    left = [uid for uid in UIDS if uid not in gone]
    assert list(columns.messages.uids) == left
    assert list(columns.messages.seqs) == [UIDS.index(uid) + 1 for uid in left]
    assert list(columns.sizes) == left
    assert list(columns.modseqs) == left
    assert columns.flags == bytes(uid % 32 for uid in left)
    assert [columns.position(uid) for uid in left] == list(range(len(left)))
    assert columns.position(4) is None


def test_scattered_messages_are_picked_in_order() -> None:
    window = view()
    for wanted in ([3], [3, 5], [2, 13, 55], []):
        messages = present(window, [(UIDS.index(uid) + 1, Uid(uid)) for uid in wanted])
        assert list(messages.pick(window.shared.sizes)) == wanted
    assert len(everything(window)) == len(UIDS)
