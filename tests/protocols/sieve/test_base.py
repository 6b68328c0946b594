"""RFC 5228: tests, control, actions and their rules."""

from __future__ import annotations

import pytest

from protocols.sieve.outcome import Keep
from protocols.sieve.script import IncludeName

from .running import MESSAGE, compiled, holds, run, told


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('header :is "subject" "GRÜßE from [LIST] 42"', False),  # casemap is of ASCII
        ('header :is "subject" "Grüße FROM [LIST] 42"', True),
        ('header :comparator "i;octet" :is "subject" "Grüße FROM [LIST] 42"', False),
        ('header :contains ["x", "SUBJECT"] ["no", "[list]"]', True),
        ('header :matches "subject" "* from ?list?*"', True),
        ('header :matches "subject" "Gr??e*4?"', True),
        ('header :matches "subject" "Gr?e*"', False),
        ('header :is "x-empty" ""', True),
        ('header :contains "x-empty" ""', True),
        ('header :is "x-absent" ""', False),
        ('exists ["subject", "from"]', True),
        ('exists ["subject", "x-absent"]', False),
        ('address :is "from" "ann+work@example.org"', True),
        ('address :localpart "from" "ann+work"', True),
        ('address :domain :contains "from" "example"', True),
        ('address :all "to" "carl@example.net"', True),
        ('address :all "to" "Team"', False),
        ('address :is "cc" "undisclosed"', True),
        ('address :domain "cc" "undisclosed"', False),
        ("size :over 10", True),
        ("size :over 1K", False),
        ("size :under 1M", True),
        (f"size :over {len(MESSAGE)}", False),
        (f"size :under {len(MESSAGE)}", False),
        ("not true", False),
        ("allof (true, not false)", True),
        ("allof (true, false)", False),
        ("anyof (false, true)", True),
        ("anyof (false, not true)", False),
    ],
)
def test_tests(test: str, expected: bool) -> None:
    assert holds(test) is expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('envelope "from" "ann+work@EXAMPLE.org"', True),
        ('envelope :localpart "to" "bob+lists"', True),
        ('envelope :detail "to" "LISTS"', True),
        ('envelope :user "to" "bob"', True),
        ('address :user "to" "bob"', True),
        ('address :detail "to" ""', False),  # no separator, no detail (RFC 5233 §4)
        ('address :detail "from" "work"', True),
    ],
)
def test_envelope_and_subaddress(test: str, expected: bool) -> None:
    assert holds(test, require="envelope subaddress") is expected


@pytest.mark.parametrize("part", ["", ":localpart", ":domain", ":user"])
def test_null_sender_is_empty(part: str) -> None:
    assert holds(f'envelope {part} "from" ""', require="envelope subaddress", sender="")


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('header :value "gt" :comparator "i;ascii-numeric" "x-number" "16"', True),
        ('header :value "gt" :comparator "i;ascii-numeric" "x-number" "017"', False),
        ('header :comparator "i;ascii-numeric" "x-number" "0017"', True),
        ('header :comparator "i;ascii-numeric" "subject" "abc"', True),  # both infinite
        ('header :count "ge" :comparator "i;ascii-numeric" "received" "2"', True),
        ('header :count "eq" "x-absent" "0"', True),
        ('address :count "eq" "to" "3"', True),
        ('header :comparator "i;unicode-casemap" :contains "subject" "GRÜ"', True),
        ('header :comparator "i;unicode-casemap" :matches "subject" "*grüße*"', True),
        ('header :value "lt" "subject" "Hallo"', True),
    ],
)
def test_comparators_and_relations(test: str, expected: bool) -> None:
    need = "relational comparator-i;ascii-numeric comparator-i;unicode-casemap"
    assert holds(test, require=need) is expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", ["implicit"]),
        ("keep;", ["keep"]),
        ("keep; keep;", ["keep"]),
        ("discard;", ["discard"]),
        ("discard; keep;", ["discard", "keep"]),
        ("stop; discard;", ["implicit"]),
        ('redirect "a@example.org";', ["redirect a@example.org"]),
        (
            'redirect "a@example.org"; redirect "b@example.org"; redirect "A@example.org";',
            ["redirect a@example.org", "redirect b@example.org"],
        ),
        ('redirect "Ann \\"A\\" B <a@example.org>";', ["redirect a@example.org"]),
        ('redirect " <a@example.org> "; redirect "a@example.org";', ["redirect a@example.org"]),
        ('redirect "a@[192.0.2.1]";', ["redirect a@[192.0.2.1]"]),
        ('require "fileinto"; fileinto "A"; fileinto "B"; fileinto "A";', ["file A", "file B"]),
        ('require "fileinto"; fileinto "A"; keep;', ["file A", "keep"]),
        ('require "fileinto"; fileinto "inbox"; keep;', ["file inbox"]),
        ('require ["fileinto", "copy"]; fileinto :copy "A";', ["file A", "implicit"]),
        ('require "copy"; redirect :copy "a@b.c"; discard;', ["redirect a@b.c", "discard"]),
        ("if false { discard; } elsif true { keep; } else { stop; }", ["keep"]),
        ("if false { discard; } else { keep; }", ["keep"]),
        ("if true { stop; } keep;", ["implicit"]),
        ('require "reject"; reject "no";', ["reject no"]),
        ('require "ereject"; ereject "no"; discard;', ["ereject no", "discard"]),
    ],
)
def test_actions(script: str, expected: list[str]) -> None:
    assert told(run(script)) == expected


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        (["keep;", "discard;"], ["discard"]),
        (["", ""], ["implicit"]),
        (["discard;", "keep;"], ["discard"]),
        (['require ["fileinto", "copy"]; fileinto :copy "A";', "discard;"], ["file A", "discard"]),
        (['require "fileinto"; fileinto "Junk"; stop;', 'require "fileinto"; fileinto "B";'], ["file Junk"]),
        (["stop;", 'require "fileinto"; fileinto "B";'], ["file B"]),
        (['require "imap4flags"; addflag "x";', "keep;"], ["keep (x)"]),
        (["", 'require "fileinto"; fileinto "B"; keep;', "discard;"], ["file B", "discard"]),
        (['redirect "a@example.net";', "discard;"], ["redirect a@example.net"]),
        (['require "ereject"; ereject "no";', "keep;"], ["ereject no"]),
        (
            ['require "variables"; set "x" "1";', 'require "variables"; if string "${x}" "" { discard; }'],
            ["discard"],
        ),
        (
            [
                'require "editheader"; addheader "X-Site" "seen";',
                'require "fileinto"; if header "x-site" "seen" { fileinto "B"; }',
            ],
            ["file B"],
        ),
    ],
)
def test_scripts_one_after_the_other(scripts: list[str], expected: list[str]) -> None:
    assert told(run(*scripts)) == expected


@pytest.mark.parametrize("keep", ["", "keep;"])
def test_a_script_that_fails_leaves_the_message_as_the_one_before_it(keep: str) -> None:
    before = f'require ["editheader", "imap4flags"]; addflag "seen-by-site"; addheader "X-Site" "yes"; {keep}'
    failing = (
        'require ["editheader", "imap4flags", "ihave"]; addflag "x"; addheader "X-Mine" "yes"; error "no";'
    )
    outcome = run(before, failing)
    assert outcome.fault.startswith("s1: ")
    (action,) = outcome.actions
    assert isinstance(action, Keep)
    assert (action.rule, action.flags) == (None, ("seen-by-site",))
    assert action.message is not None
    assert action.message.header.startswith(b"X-Site: yes\r\n")
    assert b"X-Mine" not in action.message.header


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('require "variables";\nif true {\n redirect "${x}"; }', "line 3: '' is"),
        (
            'require ["variables", "regex"];\nset "x" "(";\nif header :regex "subject" "${x}" { stop; }',
            "line 3: bad reg",
        ),
        ('require ["variables", "ihave"];\nkeep;\nerror "no way";', "line 3: no way"),
        ('require "include";\n\ninclude "absent";', "line 3: the personal script"),
        ('require "ihave";\nif ihave "vnd.x" { stop; }\nunheard;', "line 3, column 1: "),
    ],
)
def test_faults_name_the_line(script: str, why: str) -> None:
    assert run(script).fault.startswith(f"s0: {why}")


def test_faults_of_included_scripts_name_both_lines() -> None:
    library = {IncludeName("personal", "inner"): compiled('require "ihave";\nerror "no";')}
    assert (
        run('require "include";\n\n\ninclude "inner";', library=library).fault
        == 's0: line 4: in "inner", line 2: no'
    )


def test_action_tells_script_line_and_the_condition_that_was_true() -> None:
    outcome = run("keep;", "if true {\n if anyof (false,\n true) {\n  discard;\n }\n}", wants_trace=True)
    rule = outcome.actions[0].rule
    assert rule is not None
    assert (rule.script, rule.line, rule.because) == ("s1", 4, 2)
    assert "s1:4: discard" in outcome.trace


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('require ["reject", "fileinto"]; reject "no"; fileinto "A";', "line 1: a message that is rejected"),
        ('require "variables"; set "x" "not an address"; redirect "${x}";', "address"),
        ('require ["variables", "fileinto"]; fileinto "${nothing}";', "mailbox"),
        ('require ["include"]; include "lost";', "included"),
    ],
)
def test_fault_keeps_the_message_and_drops_what_the_script_did(script: str, why: str) -> None:
    outcome = run('require ["fileinto", "copy"]; fileinto :copy "Before";', script, "discard;")
    assert why in outcome.fault
    assert outcome.fault.startswith("s1: ")
    assert [type(action).__name__ for action in outcome.actions] == ["FileInto", "Keep"]
    assert outcome.actions[1] == Keep(None)
