"""Scripts that need not be run: where one says that it idles, running it gives the implicit keep only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sieve import skipping
from protocols.sieve.budget import Budget, Limits
from protocols.sieve.fields import Fields, Mailbox, mailboxes
from protocols.sieve.interpreter import are_idle
from protocols.sieve.outcome import Keep
from storage.mime.envelope import parse_addresses
from storage.mime.headers import split_header

from .running import Clock, compiled, run
from .test_skipping import BODIES, REQUIRE, conditions, messages

MESSAGE = b"From: Ann <ann@example.org>\r\nSubject: hello\r\n\r\nbody\r\n"


def idles(script: str, message: bytes = MESSAGE, limits: Limits | None = None) -> bool:
    fields = Fields(message[: split_header(message)])
    return are_idle([compiled(script)], fields, Budget(limits or Limits(), Clock()))


@st.composite
def rules(draw: st.DrawFn) -> str:
    return f"if {draw(conditions())} {{ {draw(st.sampled_from(BODIES)).format(n=0)} }}"


@settings(max_examples=200, deadline=None)
@given(script=st.lists(rules(), max_size=6).map(lambda found: REQUIRE + "\n".join(found)), message=messages())
def test_what_idles_would_only_have_kept_the_message(script: str, message: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skipping, "MOST_RULES", 2)
        is_idle = idles(script, message)
        patch.setattr(skipping, "FEWEST_RULES", 1_000_000)
        plain = run(script, message=message)
    if is_idle:
        assert plain.actions == (Keep(None),)
        assert (plain.seen, plain.fault, plain.notes) == ((), "", ())


HOLDS = 'if header :contains "subject" "hell" { discard; }\n'
FAILS = 'if header :contains "subject" "goodbye" { discard; }\n'
FAILS_TOO = 'if address :is "from" "bob@example.org" { discard; }\n'


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", True),
        (FAILS, True),
        (FAILS + FAILS_TOO, True),
        (FAILS * 100, True),
        (HOLDS, False),
        (FAILS * 100 + HOLDS, False),
        (FAILS + "keep;", False),
        (FAILS * 9 + "stop;", False),
        ("if not exists \"subject\" { discard; }", False),
        ("if size :over 1M { discard; }", False),
        (f"{FAILS} else {{ discard; }}", False),
        ('if exists "x-none" { discard; }', True),
        ('if header "from" "x" { if true { discard; } }', True),
    ],
)  # fmt: skip
def test_which_scripts_idle(script: str, expected: bool) -> None:
    assert idles(script) is expected


def test_long_values_are_left_to_the_rules() -> None:
    message = b"Subject: " + b"y" * skipping.CHARS_PER_STEP + b"\r\n\r\n"
    assert not idles(FAILS, message)


def test_to_find_out_costs_steps_of_a_budget() -> None:
    script = FAILS * 2_000
    assert idles(script)
    assert not idles(script, limits=Limits(steps=1_000))


ADDRESSES = st.lists(
    st.sampled_from(
        [
            *("ann@example.org", "<", ">", '"A, B"', "Ann", " ", "\t", "\r\n ", "\r\n", ",", ";", ":", "(c)"),
            *("\\", "@", "x@", "@y", "a.b", "[1.2.3.4]", "\0", "grüße@x", "=?utf-8?q?a?=", "\x0b", "\x7f"),
        ]
    ),
    max_size=6,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(ADDRESSES, ADDRESSES.map(lambda text: f"{text}<ann@example.org>{text[:1]}\r\n")))
def test_addresses_are_those_of_the_mail_package(text: str) -> None:
    raw = text.encode()
    expected = [
        Mailbox((each.mailbox or b"").decode(), each.host.decode())
        for each in parse_addresses(raw)
        if each.host is not None
    ]
    assert mailboxes(raw) == expected
