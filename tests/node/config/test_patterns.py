"""Patterns that could be made to take long are refused; those that people write are not."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from node.config.patterns import LENGTH, is_quick
from protocols.imap.presentation import MAX_SEARCHED

from .loading import STORAGE, problems_of


def test_the_length_is_the_one_that_is_searched() -> None:
    assert LENGTH == MAX_SEARCHED


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^t13d1516h2_.*",
        "t13d1516h2_8daaf6152771_[0-9a-f]{12}",
        "^t1[23]d15(16|17)h2_.+_(e5627efa2ab1|6d807ffa2a79)$",
        "(?i)apple.*mail",
        r"^(iPhone|iPad|iOS)\s*Mail.*$",
        r"^1[0-6]\.\d+(\.\d+)?",
        r"(?:com\.)?example\.[a-z]+\.v\d+",
        "^(?!Good).*Mail",
    ],
)
def test_patterns_of_operators(pattern: str) -> None:
    assert is_quick(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a*)*b",
        "(a|a)*$",
        "(a|ab)*c",
        "(?:a?){40}a{40}",
        "a?" * 40 + "a" * 40,
        ".*.*.*.*.*.*x",
        r"(.+)\1+$",
        "(?:(?:a{0,9}){0,9}){0,9}b",
        "(x+x+)+y",
    ],
)
def test_patterns_that_run_away(pattern: str) -> None:
    assert not is_quick(pattern)


def test_the_configuration_refuses_them_by_name() -> None:
    text = '[servers.imap]\naddr=":1"\n[[servers.imap.client_filters]]\ndisable_caps=["IDLE"]\n'
    for key, value in (("client_name", '"(a+)+$"'), ("ja4_fingerprints", '["^t13", "("]')):
        problems = problems_of(f"{STORAGE}{text}{key}={value}")
        errors = [problem.key for problem in problems if problem.severity == "error"]
        assert errors == [f"servers.imap.client_filters[0].{key}"]


pieces = st.sampled_from(
    ["a", "b", ".", "a*", ".*", "a+", "a?", "(a|b)", "(a|ab)", "(a+)", "(ab)*", "[ab]{1,3}", "$"]
)


@given(st.lists(pieces, max_size=9).map("".join), st.text("ab", max_size=LENGTH))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
def test_what_is_taken_is_quick(pattern: str, text: str) -> None:
    assume(is_quick(pattern))
    began = time.thread_time()
    re.search(pattern, text + "c")
    re.search(pattern + "c$", "a" * LENGTH)
    assert time.thread_time() - began < 10.0
