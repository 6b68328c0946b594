"""Flag algebra."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.flags import ALL_SYSTEM, canonical_keywords, changed
from storage.model import FlagChange, Flags, SystemFlag

KEYWORDS = st.lists(st.sampled_from(["a", "B", "b", "$Junk", "$junk", "z"]), max_size=5).map(
    lambda chosen: frozenset(canonical_keywords(chosen))
)
FLAGS = st.builds(Flags, st.integers(0, int(ALL_SYSTEM)).map(SystemFlag), KEYWORDS)


def lowered(flags: Flags) -> set[str]:
    return {keyword.lower() for keyword in flags.keywords}


@given(FLAGS, FLAGS)
def test_set_algebra_with_spelling_kept(present: Flags, given_flags: Flags) -> None:
    added = changed(present, FlagChange.ADD, given_flags)
    removed = changed(present, FlagChange.REMOVE, given_flags)
    replaced = changed(present, FlagChange.REPLACE, given_flags)
    assert added.system == present.system | given_flags.system
    assert removed.system == present.system & ~given_flags.system
    assert replaced.system == given_flags.system
    assert lowered(added) == lowered(present) | lowered(given_flags)
    assert lowered(removed) == lowered(present) - lowered(given_flags)
    assert lowered(replaced) == lowered(given_flags)
    for outcome in (added, removed, replaced):
        kept = {keyword for keyword in present.keywords if keyword.lower() in lowered(outcome)}
        assert kept <= outcome.keywords
        assert len(lowered(outcome)) == len(outcome.keywords)


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=6)))
def test_canonical_order_does_not_depend_on_the_given_one(keywords: list[str]) -> None:
    once = canonical_keywords(keywords)
    assert once == canonical_keywords(reversed(keywords)) == canonical_keywords(once)
