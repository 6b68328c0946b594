from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.serf.pattern import Pattern


@pytest.mark.parametrize(
    ("expression", "text", "found", "whole"),
    [
        ("", "", True, True),
        ("", "x", True, False),
        ("a", "bab", True, False),
        ("^a", "ba", False, False),
        ("^ab$", "ab", True, True),
        ("b$", "ab", True, False),
        ("a|bc|", "bc", True, True),
        ("(a|b)*c", "ababc", True, True),
        ("(?:ab)+", "abab", True, True),
        ("colou?r", "color", True, True),
        ("a{3}", "aaaa", True, False),
        ("^a{2,3}$", "aaaa", False, False),
        ("^a{2,}$", "aaaa", True, True),
        ("^a{0}b$", "b", True, True),
        ("a{x}", "a{x}", True, True),
        ("a{,2}", "a{,2}", True, True),
        ("a+?b", "aab", True, True),
        ("(a{2}){2}", "aaaa", True, True),
        ("[a-c]+", "abcd", True, False),
        ("[^a-c]", "abc", False, False),
        ("[]a]", "]", True, True),
        ("[a-]", "-", True, True),
        (r"[\d.]+", "1.2", True, True),
        ("[[:alpha:]]+", "ab1", True, False),
        ("[[:^alpha:]]", "1", True, True),
        (r"\d\D\w\W\s\S", "1aa. x", True, True),
        (r"\x41\x{42}", "AB", True, True),
        (r"\.", "a", False, False),
        (r"a\.b", "a.b", True, True),
        (".", "\n", False, False),
        ("(?i)MaiL", "mAIL", True, True),
        ("(?i)[a-c]+", "ABC", True, True),
        (r"\Aa\z", "a", True, True),
        ("x*", "", True, True),
        ("(a*)*", "aaa", True, True),
        ("(a|)+$", "aab", True, False),
        ("a**", "aaa", True, True),
        ("ü+", "üü", True, True),
        ("^(web|db)-[0-9]+$", "db-12", True, True),
    ],
)
def test_matches(expression: str, text: str, found: bool, whole: bool) -> None:
    pattern = Pattern(expression)
    assert (pattern.search(text), pattern.fullmatch(text)) == (found, whole)


@pytest.mark.parametrize(
    "expression",
    [
        "(", ")", "a)", "[", "[a", "*", "+a", "(?P<n>a)", "(?s)a",
        r"\b", r"\pL", "\\", r"\x", r"\xzz", r"\x{110000}",
        "[b-a]", "[[:nope:]]", "a{101}", "a{3,2}", "(((a{30}){30}){30})",
        "(" * 60 + ")" * 60, "a" * 513, r"(a)\1",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(expression: str) -> None:
    with pytest.raises(ValueError):
        Pattern(expression)


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "^", "$", r"\d", "1"])
REPEATS = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join).map("({})".format),
        st.tuples(inner.map("({})".format), st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?"])).map(
            "".join
        ),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.text("ab1", max_size=8))
@settings(max_examples=200, deadline=None)
def test_agrees_with_python(expression: str, text: str) -> None:
    # Without newlines $ and \Z are the same.
    assert Pattern(expression).search(text) == (re.search(expression, text) is not None)
    assert Pattern(expression).fullmatch(text) == (re.fullmatch(expression, text) is not None)


@given(st.text("ab(|)*+?{}[]^$.\\-:1,xdi", max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_pattern_or_an_error(expression: str) -> None:
    try:
        pattern = Pattern(expression)
    except ValueError:
        return
    assert pattern.search("abba1") in (True, False)


def test_what_explodes_with_backtracking_is_quick_here() -> None:
    began = time.process_time()
    assert not Pattern("^(a+)+$").search("a" * 500 + "b")
    assert not Pattern("(a|a)*" * 20 + "c").search("a" * 500)
    assert time.process_time() - began < 10.0
