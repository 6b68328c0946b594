"""Rules that are passed over together decide what they decide one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sieve import skipping
from protocols.sieve.budget import Limits
from protocols.sieve.outcome import Outcome
from protocols.sieve.questions import Unanswered
from storage.mime.headers import iter_fields

from .running import run, told

REQUIRE = (
    'require ["fileinto", "copy", "imap4flags", "variables", "editheader", "regex", "mime", "foreverypart",'
    ' "comparator-i;unicode-casemap"];\n'
)
WORDS = ("ann", "ANN", "a?n", "4", "", "*", "Grü*", "Grüße", "=?utf-8?q?ann?=", "x\\\\*")
NAMES = ("Subject", "from", "X-Tag")
words = st.sampled_from(WORDS)
names = st.sampled_from(NAMES)


def quoted(text: str) -> str:
    return '"' + text + '"'


def keys() -> st.SearchStrategy[str]:
    return st.lists(words.map(quoted), min_size=1, max_size=3).map(lambda found: "[" + ",".join(found) + "]")


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["header"] * 4 + ["address", "exists", "true", "var", "any", "all", "not"]))
    if kind in ("any", "all", "not") and depth:
        inner = draw(st.lists(conditions(depth - 1), min_size=1, max_size=3))
        return f"not {inner[0]}" if kind == "not" else f"{kind}of ({', '.join(inner)})"
    if kind == "header":
        match = draw(st.sampled_from([":is", ":contains", ":matches"]))
        comparator = draw(st.sampled_from(["", ':comparator "i;octet" ', ':comparator "i;unicode-casemap" ']))
        return f"header {match} {comparator}[{quoted(draw(names))}, {quoted(draw(names))}] {draw(keys())}"
    if kind == "address":
        part = draw(st.sampled_from([":all", ":domain", ":localpart"]))
        return f'address {draw(st.sampled_from([":is", ":contains"]))} {part} ["from", "to"] {draw(keys())}'
    if kind == "exists":
        return f"exists [{quoted(draw(names))}, {quoted(draw(names))}]"
    if kind == "var":
        return f'header :contains "subject" "${{{draw(st.sampled_from(["0", "1", "v"]))}}}"'
    return "true"


BODIES = (
    'fileinto :copy "Box {n}";',
    'addflag "f{n}";',
    'addheader "X-Tag" "ann {n}";',
    'deleteheader "Subject";',
    'set "v" "${{1}} {n}";',
    'redirect :copy "{n}@example.org";',
    "stop;",
    'fileinto "${{0}}";',
)


@st.composite
def scripts(draw: st.DrawFn) -> str:
    rules = []
    for n in range(draw(st.integers(5, 9))):
        body = draw(st.sampled_from(BODIES)).format(n=n)
        rule = f"if {draw(conditions())} {{ {body} }}"
        if draw(st.integers(0, 4)) == 0:
            rule += f" elsif {draw(conditions())} {{ {draw(st.sampled_from(BODIES)).format(n=n)} }}"
        if draw(st.integers(0, 8)) == 0:
            rule += ' else { addflag "else"; }'
        if draw(st.integers(0, 8)) == 0:
            rule = draw(st.sampled_from(BODIES[:-2])).format(n=n)
        rules.append(rule)
    return REQUIRE + "\n".join(rules)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.tuples(names, st.lists(words, min_size=1, max_size=2)), min_size=2, max_size=6))
    head = "".join(f"{name}: {' '.join(values)}\r\n" for name, values in lines)
    return (head + "\r\nbody\r\n").encode()


def plainly(script: str, message: bytes, patch: pytest.MonkeyPatch) -> Outcome:
    with patch.context() as context:
        context.setattr(skipping, "FEWEST_RULES", 1_000_000)
        return run(script, message=message, wants_trace=True)


@settings(max_examples=200, deadline=None)
@given(script=scripts(), message=messages())
def test_the_same_is_decided(script: str, message: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expected = plainly(script, message, patch)
        patch.setattr(skipping, "MOST_RULES", 5)
        found = run(script, message=message, wants_trace=True)
    assert found.actions == expected.actions
    assert found.trace == expected.trace
    assert (found.fault, found.notes) == (expected.fault, expected.notes)


def test_a_rule_that_changes_the_header_is_seen_by_those_behind_it() -> None:
    rules = "".join(
        f'if header "x-tag" "{n}" {{ addheader "X-Tag" "{n + 1}"; addflag "f{n}"; }}' for n in range(6)
    )
    outcome = run(REQUIRE + rules, message=b"X-Tag: 0\r\n\r\n")
    assert told(outcome) == ["implicit (f0 f1 f2 f3 f4 f5)"]


@pytest.mark.parametrize(
    "first",
    [
        'not header :matches "x-none" "a*"',  # leaves nothing, which is not known at compile time
        'string :matches "one two" "* *"',
        'not not string :regex "one two" "(.*) (.*)"',
        'anyof (true, header :matches "subject" "*")',
        'anyof (string :matches "one two" "* *", header "x-tag" "a")',
    ],
)
def test_captures_of_a_test_stay_though_the_next_one_fails(first: str) -> None:
    """RFC 5229 §3.2: whether the rule holds as a whole does not matter."""
    rule = f'if allof ({first}, header "x-none" "a") {{ discard; }}\n'
    others = 'if header "x-none" "b" { discard; }\n' * skipping.FEWEST_RULES
    script = f'{REQUIRE}if header :matches "subject" "*" {{}}\n{rule}{others}fileinto "box ${{1}}";'
    with pytest.MonkeyPatch.context() as patch:
        expected = plainly(script, b"Subject: hi\r\n\r\n", patch)
    found = run(script, message=b"Subject: hi\r\n\r\n", wants_trace=True)
    assert (found.actions, found.trace) == (expected.actions, expected.trace)


def test_an_id_is_remembered_though_the_next_test_fails() -> None:
    """RFC 7352 §3: the message was seen."""
    rule = 'if allof (duplicate, header "x-none" "a") { discard; }\n'
    script = 'require "duplicate";\n' + rule + 'if header "x-none" "b" { discard; }\n' * skipping.FEWEST_RULES
    message = b"Message-ID: <1@x>\r\n\r\n"
    with pytest.raises(Unanswered) as asked:
        run(script, message=message)
    outcome = run(script, message=message, answers={asked.value.question: False})
    assert (told(outcome), len(outcome.seen)) == (["implicit"], 1)


def test_values_that_are_long_are_paid_by_the_rules_that_look_at_them() -> None:
    rules = 'if header :contains "subject" "x" { discard; stop; }' + "".join(
        f'if header :contains "subject" "word {n}" {{ keep; }}' for n in range(2_000)
    )
    outcome = run(rules, message=b"Subject: x" + b"y" * 500_000 + b"\r\n\r\n", limits=Limits(steps=100_000))
    assert outcome.fault == ""  # the first rule ends the script; for all of them there are no steps
    assert outcome.actions != ()


def test_rules_of_many_keys_cost_steps() -> None:
    several = ", ".join(f'"k{n}"' for n in range(6_400))
    rules = "".join(f'if header :contains "subject" [{several}, "{n}"] {{ discard; }}' for n in range(4))
    message = b"Subject: a\r\n" * 50 + b"\r\n"
    assert run(rules, message=message).steps > 50 * 6_400 // skipping.KEYS_PER_STEP


HEADER_LINES = st.lists(
    st.sampled_from(
        [
            b"A: b\r\n",
            b"a : c\n",
            b"From x y\r\n",
            b" more\r\n",
            b"\tmore: d\n",
            b"B:\r\n",
            b": e\r\n",
            b"a\r: f\r\n",
            b"caf\xe9: g\r\n",
            b"A:b:c\r",
            b"\r\n",
            b"\n",
            b" \r\n",
            b"\r",
            b"C: end",
        ]
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(lines=HEADER_LINES)
def test_fields_are_those_of_the_mail_package(lines: list[bytes]) -> None:
    from protocols.sieve.fields import Fields, Seeker, parse_fields

    header = b"".join(lines)
    expected = [
        (each.name.lower().decode(), header[each.start : each.end], header[each.value_start : each.end])
        for each in iter_fields(header)
    ]
    assert [(field.name, field.raw, field.raw_value) for field in parse_fields(header)] == expected
    for name in ("a", "b", "c"):
        values = [value for key, _, value in expected if key == name]
        assert list(Fields(header).raw_values(name)) == values
        sought = Fields(header)
        sought.seek(Seeker([name, "d", "no name", "grüße"]))
        assert list(sought.raw_values(name)) == [value.removesuffix(b"\n") for value in values]
        assert not sought.raw_values("no name")
        assert not sought.raw_values("grüße")
