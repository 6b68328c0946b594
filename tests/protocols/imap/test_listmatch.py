"""Mailbox patterns against the definition, and against patterns made to be slow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.imap.listmatch import compile_pattern


def defined(pattern: str, name: str) -> bool:
    """RFC 9051 §6.3.9, word for word."""
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first in "*%":
        if defined(rest, name):
            return True
        return bool(name) and not (first == "%" and name[0] == "/") and defined(pattern, name[1:])
    return bool(name) and name[0] == first and defined(rest, name[1:])


@settings(max_examples=200)
@given(st.text("ab/*%", max_size=7), st.text("ab/", max_size=7))
def test_matches_as_defined(pattern: str, name: str) -> None:
    assert compile_pattern(pattern)(name) == defined(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("inbox", "INBOX", True),
        ("%", "INBOX", True),
        ("iN*", "INBOX", True),
        ("trash", "Trash", False),
        ("inbox", "inbox/x", False),
        ("inbox/%", "INBOX/x", True),
    ],
)
def test_inbox_in_any_case(pattern: str, name: str, *, expected: bool) -> None:
    assert compile_pattern(pattern)(name) == expected


def test_no_pattern_is_slow() -> None:
    assert not compile_pattern("*a" * 500 + "b")("a" * 1000)
