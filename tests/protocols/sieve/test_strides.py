"""Large texts in small pieces: no call of the library keeps the interpreter to itself for long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sieve.budget import Limits
from protocols.sieve.comparators import STRIDE, ascii_upper, unicode_fold

from .running import run

LOWER = {lower: lower - 32 for lower in range(ord("a"), ord("z") + 1)}


class Cut(str):
    """Notes the slices that are taken of it."""

    taken: list[int]

    def __getitem__(self, index: Any) -> str:
        found = super().__getitem__(index)
        self.taken.append(len(found))
        return found


def test_folding_takes_a_stride_at_once() -> None:
    value = Cut("é" * (2 * STRIDE + 1))
    value.taken = []
    assert unicode_fold(value) == "E\u0301" * (2 * STRIDE + 1)
    assert value.taken == [STRIDE, STRIDE, 1]


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=())))
def test_only_ascii_letters_change_their_case(value: str) -> None:
    assert ascii_upper(value) == value.translate(LOWER)


class Octets(bytes):
    """Notes the slices that are taken of it."""

    taken: list[int]

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            self.taken.append(len(found))
        return found


def test_what_is_too_large_to_enclose_is_not_copied_first() -> None:
    message = Octets(b"Subject: a\r\n\r\n" + b"x" * 50_000)
    message.taken = []
    outcome = run('require "enclose"; enclose "see";', message=message, limits=Limits(memory_chars=40_000))
    assert "more than 40000 characters" in outcome.fault
    assert max(message.taken, default=0) < 1_000


@pytest.mark.parametrize("memory_chars", [50_000, 200_000])
def test_what_is_enclosed_is_paid_with_its_note(memory_chars: int) -> None:
    message = b"Subject: a\r\n\r\n" + b"x" * 49_000
    script = f'require "enclose"; enclose "{"y" * 2_000}";'
    outcome = run(script, message=message, limits=Limits(memory_chars=memory_chars))
    assert bool(outcome.fault) is (memory_chars == 50_000)
