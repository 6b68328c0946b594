"""Scripts that are none: what is said, and where."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sieve.compiling import compile
from protocols.sieve.errors import MAX_ERRORS, ScriptErrors
from protocols.sieve.registry import COMMANDS, NAMES, TESTS

from .running import compiled, mistakes

LOOPS = 'require ["foreverypart", "ihave"];\n'


@pytest.mark.parametrize(
    ("script", "line", "column", "text"),
    [
        ("keep", 1, 5, '";" is missing after "keep"'),
        ("\n  frobnicate;", 2, 3, 'no command "frobnicate"'),
        ("if frob { keep; }", 1, 4, 'no test "frob"'),
        ('fileinto "A";', 1, 1, 'needs require "fileinto"'),
        ('require "frob";', 1, 9, '"frob" is not available'),
        ('keep; require "copy";', 1, 7, "before all other commands"),
        ('if header :regex "a" "b" { keep; }', 1, 11, 'needs require "regex"'),
        ('if header :frob "a" "b" { keep; }', 1, 11, "no argument :frob"),
        ('if header :is :contains "a" "b" { keep; }', 1, 15, "exclude each other"),
        ('if header "a" { keep; }', 1, 4, "takes 2 arguments, not 1"),
        ('if size :over "1" { keep; }', 1, 15, "takes a number here, not a string"),
        ('if address "subject" "x" { keep; }', 1, 4, "no field of addresses"),
        ('require "regex"; if header :regex "a" "(" { keep; }', 1, 21, "bad regular expression"),
        ('require "regex"; if header :regex "a" "(a)\\\\1" { keep; }', 1, 21, "back-references"),
        ('redirect "nobody";', 1, 1, "not an address"),
        ("else { keep; }", 1, 1, '"else" without "if"'),
        ("if true { keep; } else { keep; } else { keep; }", 1, 34, '"else" without "if"'),
        ("if true keep;", 1, 1, "takes one test and a block"),
        ("if true {", 1, 9, "not closed"),
        ("} keep;", 1, 1, 'a command is expected, not "}"'),
        ('keep "x";', 1, 1, "takes 0 arguments"),
        ("discard {}", 1, 1, "takes no block"),
        ('"keep";', 1, 1, "a command is expected"),
        ('redirect "a@b.c', 1, 10, "string is not closed"),
        ("/* keep;", 1, 1, "comment is not closed"),
        ("redirect text:\nfoo\n", 1, 10, "not ended by a line"),
        ("if size :over 1x { keep; }", 1, 15, "a number is followed by"),
        ("if size :over 99999999999999999999 { keep; }", 1, 15, "too large"),
        ("keep;\n\xff", 2, 1, "cannot stand here"),
        ('require "variables"; set "1a" "b";', 1, 22, "no name of a variable"),
        ('require ["fileinto", "variables"]; fileinto "${100}";', 1, 45, "no match variable"),
        ('require ["fileinto", "variables"]; fileinto "${a.b}";', 1, 45, "no namespace"),
        ('require "date"; if currentdate "epoch" "1" { keep; }', 1, 20, "no part 'epoch'"),
        ('require "enotify"; notify "tel:123";', 1, 20, "only mailto"),
        ('require "encoded-character"; redirect "${unicode:110000}";', 1, 39, "no character"),
        ('require "foreverypart"; break;', 1, 25, '"break" without'),
        (f'{LOOPS}foreverypart :name "a" {{\n  break :name "b"; }}', 3, 3, 'has the name "b"'),
        (f'{LOOPS}foreverypart {{ break :name ""; }}', 2, 16, "around this"),
        (f'{LOOPS}foreverypart :name "a" {{ keep; }}\n foreverypart {{ break :name "a"; }}', 3, 17, '"a"'),
        (
            f'{LOOPS}foreverypart :name "a" {{ if true {{ foreverypart {{ break :name "A"; }} }} }}',
            2,
            51,
            '"A"',
        ),
        (f'{LOOPS}if ihave "vnd.x" {{ keep; }}\nforeverypart {{ break :name "a"; }}', 3, 16, '"a"'),
        ('if header :comparator "i;frob" "a" "b" { keep; }', 1, 4, "no comparator"),
        ('if header :comparator "i;ascii-numeric" "a" "b" { keep; }', 1, 4, "needs require"),
    ],
)
def test_place_and_text(script: str, line: int, column: int, text: str) -> None:
    found = compile(script.encode())
    assert isinstance(found, ScriptErrors), "it compiles"
    first = found.errors[0]
    assert text in first.text
    assert (first.line, first.column) == (line, column)


def test_invalid_octets_have_a_place() -> None:
    found = compile(b"keep;\n  \xc3(")
    assert isinstance(found, ScriptErrors)
    assert str(found) == "line 2, column 3: the script is not valid UTF-8"
    assert "NUL" in mistakes(b"keep;\0")


def test_several_mistakes_at_once_and_not_too_many() -> None:
    assert mistakes("a;\nb;\nif c { d; }").count("line") == 3
    found = compile(b"a;\n" * 1000)
    assert isinstance(found, ScriptErrors)
    assert len(found.errors) == MAX_ERRORS


def test_site_decides_what_may_be_required() -> None:
    assert '"fileinto" is not available' in mistakes('require "fileinto";', extensions=["copy"])
    assert not isinstance(compile(b'require "comparator-i;octet";', extensions=[]), ScriptErrors)


@pytest.mark.parametrize("opening", ["if true {", "if not ", "if allof (", "if allof (not "])
def test_nesting_bombs(opening: str) -> None:
    assert "deep" in mistakes(opening * 20_000)


_WORDS = st.sampled_from(
    [
        *(f'"{name}"' for name in sorted(NAMES)),
        *sorted(COMMANDS),
        *sorted(TESTS),
        *("if", "elsif", "else", "require", "[", "]", "(", ")", "{", "}", ",", ";"),
        *(":is", ":contains", ":matches", ":regex", ":comparator", ":copy", ":last"),
        *('"${1}"', '"${hex:41}"', '"x"', '"*?"', "1", "10K", "text:\nfoo\n.\n", "# ", "/* ", "*/", '"'),
    ]
)


def _text(words: list[str]) -> bytes:
    return " ".join(words).encode()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.lists(_WORDS, max_size=30).map(_text))
def test_any_octets_give_a_script_or_errors(script: bytes) -> None:
    found = compile(script)
    if isinstance(found, ScriptErrors):
        lines = script.count(b"\n") + 1
        assert found.errors
        assert all(1 <= error.line <= lines and error.column >= 1 and error.text for error in found.errors)


@pytest.mark.parametrize(
    ("script", "warning"),
    [
        ("keep; stop;\nkeep; keep;", 'line 2, column 1: this is never reached: "stop" stands before it'),
        (
            'require "include"; if true { return; discard; } keep;',
            'line 1, column 38: this is never reached: "return" stands before it',
        ),
        (
            'if header :is "Subject:" "x" { discard; }',
            'line 1, column 4: "Subject:" is no name of a header field, no message has it',
        ),
        (
            'if exists ["from", "x y"] { discard; }',
            'line 1, column 4: "x y" is no name of a header field, no message has it',
        ),
        (
            'require "reject";\nrequire ["imapsieve", "vacation"];',
            "line 1, column 1: on events (imapsieve) this script fails:"
            " reject, vacation is for mail that is being delivered",
        ),
    ],
)
def test_what_compiles_and_is_hardly_meant(script: str, warning: str) -> None:
    assert compiled(script).warnings == (warning,)


@pytest.mark.parametrize(
    "script",
    [
        'require ["imapsieve", "imap4flags"]; addflag "x"; if true { stop; } keep;',
        'require "vacation"; vacation "x"; if header :is "X-$pam!" "x" { stop; } elsif true { keep; }',
        'require "variables"; set "a" "b c"; if exists "${a}" { keep; }',
    ],
)
def test_what_is_meant(script: str) -> None:
    assert compiled(script).warnings == ()


def test_warnings_are_not_endless() -> None:
    assert len(compiled("keep; stop; " * 100).warnings) == MAX_ERRORS
