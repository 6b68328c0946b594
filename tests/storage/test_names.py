"""Mailbox names: spelling, rules, hierarchy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidName, NotFound
from storage.names import canonical, checked, is_inside, sought, with_parents


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inbox", "INBOX"),
        ("iNBoX/Sub", "INBOX/Sub"),
        ("Sub/inbox", "Sub/inbox"),
        ("inboxes", "inboxes"),
        ("\u0131nbox", "\u0131nbox"),  # dotless i: upper() would make it INBOX
        ("e\u0301", "\u00e9"),
    ],
)
def test_canonical_spelling(name: str, expected: str) -> None:
    assert canonical(name) == expected


@given(st.text(max_size=40))
def test_what_is_accepted_is_stable_and_can_be_sought(name: str) -> None:
    try:
        accepted = checked(name)
    except InvalidName:
        with pytest.raises(NotFound):
            sought(name)
        return
    assert checked(accepted) == sought(name) == accepted
    assert "\x00" not in accepted.encode().decode()


def test_hierarchy() -> None:
    assert with_parents("a/b/c") == ["a", "a/b", "a/b/c"]
    assert is_inside("a/b", "a")
    assert not is_inside("ab", "a")
    assert not is_inside("a", "a")
