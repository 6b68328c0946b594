"""Patterns: against brute force, against their bounds, and what they capture."""

from __future__ import annotations

import hashlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sieve.budget import Budget, Limits
from protocols.sieve.compiling import compile
from protocols.sieve.errors import OverBudget, ScriptErrors
from protocols.sieve.globbing import Glob
from protocols.sieve.outcome import Keep
from protocols.sieve.regexmachine import Regex
from protocols.sieve.regexsyntax import BadPattern
from protocols.sieve.script import Script

from ...support.hostileheaders import HEADERS, REQUIRE, TESTS
from .running import Clock, run


def budget(limits: Limits | None = None) -> Budget:
    return Budget(limits or Limits(), Clock())


def regex_strategy() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "^", "$"])
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
            st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"({two[0]}){two[1]}"),
            inner.map(lambda one: f"({one}){{1,2}}"),
        ),
        max_leaves=6,
    )


def leftmost_longest(pattern: str, value: str) -> tuple[int, int] | None:
    pattern = pattern.replace("$", r"\Z")
    for start in range(len(value) + 1):
        for stop in range(len(value), start - 1, -1):
            rest = len(value) - stop
            if re.fullmatch(rf"(?s:.{{{start}}})(?:{pattern})(?s:.{{{rest}}})", value):
                return start, stop
    return None


@settings(max_examples=200, deadline=None)
@given(regex_strategy(), st.text("abc", max_size=7))
def test_regex_finds_the_leftmost_longest(pattern: str, value: str) -> None:
    regex = Regex(pattern, ignore_case=False)
    match = regex.search(value, budget())
    assert (match and match.spans[0]) == leftmost_longest(pattern, value)
    assert regex.found(value, budget()) is (match is not None)


@settings(max_examples=200, deadline=None)
@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_glob_matches_as_the_pattern_says(pattern: str, value: str) -> None:
    expression = "".join({"*": ".*?", "?": "."}.get(char, char) for char in pattern)
    spans = Glob(pattern).spans(value, budget())
    assert (spans is not None) is (re.fullmatch(expression, value) is not None)
    if spans is not None:
        texts = iter([value[a:b] for a, b in spans])
        assert "".join(next(texts) if char in "*?" else char for char in pattern) == value


@pytest.mark.parametrize(
    ("pattern", "value", "captured"),
    [
        ("*@*", "a@b@c", ["a", "b@c"]),
        ("*a*a*", "xaxaxax", ["x", "x", "xax"]),
        ("?*", "abc", ["a", "bc"]),
        ("\\*?", "*x", ["x"]),
        ("a\\?", "a?", []),
    ],
)
def test_stars_match_as_little_as_they_can(pattern: str, value: str, captured: list[str]) -> None:
    spans = Glob(pattern).spans(value, budget())
    assert spans is not None
    assert [value[a:b] for a, b in spans] == captured


@pytest.mark.parametrize(
    ("pattern", "value", "groups"),
    [
        ("(a|ab)(c|bcd)(d*)", "abcd", ["abcd", "a", "bcd", ""]),
        ("(a*)(b?)b+", "aabbb", ["aabbb", "aa", "b"]),
        ("(x)?(y)", "zy", ["y", "", "y"]),
        ("[[:digit:]]{2,}-([[:alpha:]]+)", "1-a 22-bc", ["22-bc", "bc"]),
        ("a.c", "a\nc", ["a\nc"]),
        ("[]a]+", "]a]", ["]a]"]),
        ("[a\\]+", "a\\", ["a\\"]),
    ],
)
def test_groups(pattern: str, value: str, groups: list[str]) -> None:
    match = Regex(pattern, ignore_case=False).search(value, budget())
    assert match is not None
    assert [value[a:b] if a >= 0 else "" for a, b in match.spans] == groups


@pytest.mark.parametrize(
    "pattern",
    [
        *["(", ")", "a)", "*a", "a{2", "a{3,2}", "a{256}", "[", "[b-a]", "[[:frob:]]", "\\", "(a)\\1", "+"],
        *["((a{255}){255}){255}", "a{0}{255}{255}{255}{255}", "(" * 60 + ")" * 60, "a" + "+?" * 60],
    ],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        Regex(pattern, ignore_case=False)


@pytest.mark.parametrize(("pattern", "value"), [("GRÜN", "grün"), ("[a-c]X", "Bx"), ("[^a]", "b")])
def test_case_is_ignored(pattern: str, value: str) -> None:
    assert Regex(pattern, ignore_case=True).found(value, budget())
    assert not Regex("[^a]", ignore_case=True).found("A", budget())


HOSTILE = "a" * 1_000_000


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_a_million_octets_takes_less_than_a_second(name: str) -> None:
    """On a quiet core; the bound leaves room for others, ``tests.bench.sievelimits`` has the figures."""
    for test in TESTS:
        started = time.process_time()
        outcome = run(f"{REQUIRE}if {test} {{ discard; }}", message=HEADERS[name] + b"\r\n")
        assert time.process_time() - started < 10.0, test
        assert outcome.fault == "" or "steps" in outcome.fault


@pytest.mark.parametrize("pattern", ["(a{255}){18}%d", "(a{0}{255}){18}%d"])
def test_the_patterns_of_a_script_are_bounded_together(pattern: str) -> None:
    rules = "".join(f'if header :regex "subject" "{pattern % n}" {{ stop; }}\n' for n in range(500))
    started = time.process_time()
    found = compile(b'require "regex";\n' + rules.encode())
    assert time.process_time() - started < 10.0
    assert isinstance(found, ScriptErrors)
    assert "too large together" in found.errors[0].text
    assert found.errors[0].line > 5
    usual = "".join(
        f'if header :regex "subject" "^List {n}: (.*) ticket #[0-9]{{3,}}$" {{ stop; }}\n'
        for n in range(3000)
    )
    assert isinstance(compile(b'require "regex";\n' + usual.encode()), Script)


def test_a_list_of_patterns_is_bounded_like_rules() -> None:
    keys = ", ".join(f'"(a{{255}}){{18}}{n}"' for n in range(200))
    found = compile(f'require "regex";\nif header :regex "subject" [{keys}] {{ stop; }}'.encode())
    assert isinstance(found, ScriptErrors)
    assert found.errors[0].line == 2


def test_patterns_that_are_made_at_run_time_are_paid_with_steps() -> None:
    script = 'require ["regex", "variables"]; set "n" "18";'
    script += 'if header :regex "subject" "(a{255}){${n}}" { stop; }' * 20
    outcome = run(script, limits=Limits(steps=50_000))
    assert "steps" in outcome.fault


def test_match_variables_of_a_hostile_match_are_bounded() -> None:
    message = b"Subject: " + HOSTILE.encode() + b"\r\n\r\n"
    script = 'require ["regex", "variables"]; if header :regex "subject" "^((a)*)*$" { set "x" "${1}"; }'
    started = time.process_time()
    assert "too long" in run(script, message=message).fault
    assert time.process_time() - started < 10.0


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            'require "variables"; set "a" "xxxxxxxxxx";' + 'set "a" "${a}${a}${a}${a}";' * 40,
            "characters",
        ),
        ('require "regex"; if header :regex "subject" "[0-7].{200}Z" { discard; }', "steps"),
        ('require "variables";' + "".join(f'set "v{n}" "x";' for n in range(2000)), "variables"),
        ('require ["fileinto"];' + "".join(f'fileinto "{n}";' for n in range(200)), "actions"),
        ("".join(f'redirect "a{n}@b.c";' for n in range(20)), "redirects"),
    ],
)
def test_bombs_end_as_faults(script: str, why: str) -> None:
    noise = "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(1000))
    message = b"Subject: " + noise.encode() + b"\r\n\r\n"
    limits = Limits(steps=300_000, memory_chars=2_000_000)
    started = time.process_time()
    assert why in run(script, message=message, limits=limits).fault
    assert time.process_time() - started < 10.0


def test_the_last_octets_are_those_of_the_message_that_is_kept() -> None:
    message = b"X: " + b"y" * 100_000 + b"\r\n\r\n"
    script = 'require "editheader"; addheader "A" "b";'
    outcome = run(script, message=message, limits=Limits(memory_chars=50_000))
    assert "characters" in outcome.fault
    assert [type(action) for action in outcome.actions] == [Keep]


def test_time_is_up() -> None:
    script = "if not anyof (false, false) { } " * 1000
    assert "longer than 2 s" in run(script, clock=Clock(step_s=0.5)).fault


def test_states_are_thrown_away_when_there_are_too_many() -> None:
    spent = budget(Limits(steps=10**9))
    value = "".join(map(chr, range(0x4E00, 0x9E00))) * 2
    assert not Regex("[a-z]{3}x", ignore_case=False).found(value, spent)
    assert Regex(".{3}龜$", ignore_case=False).found(value + "一丁龜龜", spent)


def test_budget_looks_at_the_clock() -> None:
    running = Budget(Limits(time_s=1.0), Clock(step_s=0.9))
    with pytest.raises(OverBudget):
        running.spend(1000)
        running.spend(1000)
