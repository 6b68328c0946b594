"""A table for each extension."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.sieve.outcome import FileInto, Keep, Notify, Seen, Vacation
from protocols.sieve.questions import (
    IsListed,
    ListExists,
    MailboxExists,
    MailboxIdExists,
    Metadata,
    SeenBefore,
    SpecialUseExists,
    Unanswered,
)
from protocols.sieve.script import IncludeName

from .running import MESSAGE, compiled, holds, mistakes, run, told


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('body :contains "hello wörld"', True),
        ('body :contains "marked"', True),
        ('body :contains "<b>"', False),
        ('body :content "text/html" :contains "<b>"', True),
        ('body :content "html" :contains "<b>"', False),
        ('body :content "multipart" :contains "preamble"', True),
        ('body :content "" :contains "preamble"', True),
        ('body :content "image" :contains ""', False),
        ('body :raw :contains "SGVsbG8gd8O2cmxk"', True),
        ('body :raw :contains "Hello"', False),
        ('body :text :regex "w.rld$"', True),
    ],
)
def test_body(test: str, expected: bool) -> None:
    assert holds(test, require="body regex") is expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (':is "before\r\n"', True),
        (':is "behind\r\n"', True),
        (':contains "--x"', False),
        (':contains "inside"', False),
        (':contains "plain"', False),
    ],
)
def test_of_multiparts_only_what_stands_around_their_parts(test: str, expected: bool) -> None:
    message = (
        b'Content-Type: multipart/mixed; boundary="x"\r\n\r\nbefore\r\n--x\r\n'
        b"\r\ninside\r\n--x \r\n\r\nplain\r\n--x--\r\nbehind\r\n"
    )
    script = f'require "body"; if body :content "multipart" {test} {{ discard; }}'
    assert (told(run(script, message=message)) == ["discard"]) is expected


def test_body_is_asked_for_only_by_tests_of_it() -> None:
    assert told(run("keep;", answers={})) == ["keep"]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('date "date" "year" "1997"', True),
        ('date :originalzone "date" "hour" "09"', True),
        ('date "date" "hour" "17"', True),
        ('date :zone "+0200" "date" "time" "19:06:31"', True),
        ('date :originalzone "date" "iso8601" "1997-04-01T09:06:31-08:00"', True),
        ('date :originalzone "date" "std11" "Tue, 01 Apr 1997 09:06:31 -0800"', True),
        ('date :originalzone "date" "zone" "-0800"', True),
        ('date "date" "weekday" "2"', True),
        ('date "date" "julian" "50539"', True),
        ('date "subject" "year" "1997"', False),
        ('date :index 1 "received" "day" "21"', True),
        ('date :index 1 :last "received" "day" "20"', True),
        ('date :index 3 "received" "day" "20"', False),
        ('currentdate :value "ge" "date" "2026-11-22"', True),
        ('currentdate "weekday" "0"', True),
        ('currentdate :zone "-2300" "day" "21"', True),
        ('header :index 2 :contains "received" "from c"', True),
        ('header :index 2 :last :contains "received" "from c"', False),
        ('address :index 2 "to" "bob@example.com"', False),
    ],
)
def test_date_and_index(test: str, expected: bool) -> None:
    assert holds(test, require="date index relational") is expected


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ('set "a" "1"; fileinto "x${a}${A}${b}";', "x11"),
        ('set :upper "a" "juMBlEd"; fileinto "${a}";', "JUMBLED"),
        ('set :lowerfirst :upper "a" "juMBlEd"; fileinto "${a}";', "jUMBLED"),
        ('set :length "a" "grüße"; fileinto "${a}";', "5"),
        ('set :quotewildcard "a" "Rock*?"; fileinto "${a}";', "Rock\\*\\?"),
        ('set :quoteregex "a" "a.b"; fileinto "${a}";', "a\\.b"),
        ('set :encodeurl "a" "a b&"; fileinto "${a}";', "a%20b%26"),
        ('set "a" "${b"; fileinto "${a}";', "${b"),
        ('if string :matches "one two three" "* * *" { fileinto "${3}${1}"; }', "threeone"),
        ('if header :matches "subject" "*[*]*" { fileinto "${2}"; }', "list"),
        ('if header :matches "subject" "GR*" { fileinto "${0}"; }', "Grüße from [list] 42"),
        ('if header :regex "subject" "\\\\[([a-z]+)\\\\] ([0-9]+)$" { fileinto "${1}-${2}"; }', "list-42"),
        ('if string :matches "abc" "*" { if string :matches "x" "y*" {} fileinto "${1}"; }', "abc"),
        ('if not string :count "eq" ["", "a"] "1" { stop; } fileinto "one";', "one"),
    ],
)
def test_variables(commands: str, expected: str) -> None:
    need = '["variables", "fileinto", "regex", "enotify", "relational"]'
    outcome = run(f"require {need}; {commands}")
    (action,) = outcome.actions
    assert isinstance(action, FileInto)
    assert action.mailbox == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${hex:24 24}", "$$"),
        ("$${hex:40}", "$@"),
        ("${hex: 40 }", "@"),
        ("${HEX: 40}", "@"),
        ("${hex:40", "${hex:40"),
        ("${hex:400}", "${hex:400}"),
        ("${unicode:40}", "@"),
        ("${ unicode:40}", "${ unicode:40}"),
        ("${UNICODE:40}", "@"),
        ("${UnICoDE:0000040}", "@"),
        ("${Unicode:Cool}", "${Unicode:Cool}"),
        ("${unicode:263a 40}", "☺@"),
    ],
)
def test_encoded_characters(text: str, expected: str) -> None:
    """The table of RFC 5228 §2.4.2.4."""
    (action,) = run(f'require ["encoded-character", "fileinto"]; fileinto "{text}";').actions
    assert isinstance(action, FileInto)
    assert action.mailbox == expected


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ('addflag "\\\\Seen"; keep;', "keep (\\Seen)"),
        ('setflag "a b"; addflag ["B", "c"]; removeflag "A"; keep;', "keep (b c)"),
        ('setflag "a"; keep :flags "\\\\FLAGGED x";', "keep (\\Flagged x)"),
        ('setflag "f" "a b"; keep :flags "${f}";', "keep (a b)"),
        ('addflag "x"; if hasflag "X" { keep; }', "keep (x)"),
        ('addflag "v" "x"; if hasflag :contains "v" "x" { discard; }', "discard"),
        ('addflag "a"; addflag "b"; if hasflag :count "eq" "2" { discard; }', "discard"),
        ('addflag "\\\\Bogus"; addflag "ok";', "implicit (ok)"),
    ],
)
def test_imap4flags(commands: str, expected: str) -> None:
    assert told(run(f'require ["imap4flags", "variables", "relational"]; {commands}')) == [expected]


@pytest.mark.parametrize(
    ("test", "answers", "expected"),
    [
        ('mailboxexists ["A", "B"]', {MailboxExists("A"): True, MailboxExists("B"): True}, True),
        ('mailboxexists ["A", "B"]', {MailboxExists("A"): True, MailboxExists("B"): False}, False),
        ('mailboxidexists "F1"', {MailboxIdExists("F1"): True}, True),
        ('specialuse_exists "\\\\Junk"', {SpecialUseExists("\\junk"): True}, True),
        ('specialuse_exists "A" "\\\\Junk"', {SpecialUseExists("\\junk", "A"): False}, False),
        ('metadata "A" "/private/X" "Y"', {Metadata("/private/x", "A"): "y"}, True),
        ('metadata "A" "/private/X" "y"', {Metadata("/private/x", "A"): None}, False),
        ('metadataexists "A" ["/private/x"]', {Metadata("/private/x", "A"): ""}, True),
        ('servermetadata "/shared/x" "y"', {Metadata("/shared/x"): "y"}, True),
        ('servermetadataexists "/shared/x"', {Metadata("/shared/x"): None}, False),
        ('valid_ext_list "tag:x"', {ListExists("tag:x"): True}, True),
        ('address :list "from" "L"', {IsListed("L", "Ann+work@Example.ORG"): True}, True),
        ('envelope :list "from" "L"', {IsListed("L", "ann+work@example.org"): False}, False),
    ],
)
def test_questions(test: str, answers: dict[Any, Any], expected: bool) -> None:
    need = "mailbox mailboxid special-use mboxmetadata servermetadata extlists envelope"
    assert holds(test, require=need, answers=answers) is expected


def test_question_without_answer_is_raised_for_the_caller() -> None:
    with pytest.raises(Unanswered) as raised:
        run('require "mailbox"; if mailboxexists "A" { discard; }')
    assert raised.value.question == MailboxExists("A")


def test_where_fileinto_files() -> None:
    script = """require ["fileinto", "mailbox", "special-use", "mailboxid", "imap4flags"];
fileinto :create :flags "x" :specialuse "\\\\Junk" :mailboxid "F7" "Spam";"""
    assert told(run(script)) == ["file Spam create=True use=\\Junk id=F7 (x)"]


@pytest.mark.parametrize(
    ("score", "test", "expected"),
    [
        (None, 'spamtest "0"', True),
        (0.0, 'spamtest "1"', True),
        (100.0, 'spamtest "10"', True),
        (50.0, 'spamtest :value "ge" :comparator "i;ascii-numeric" "5"', True),
        (37.0, 'spamtest :percent "37"', True),
        (None, 'spamtest :count "eq" "0"', True),
    ],
)
def test_spamtest(score: float | None, test: str, expected: bool) -> None:
    need = "spamtestplus relational comparator-i;ascii-numeric"
    assert holds(test, require=need, spam_percent=score) is expected


@pytest.mark.parametrize(("value", "text"), [(None, "0"), (1, "1"), (5, "5")])
def test_virustest(value: int | None, text: str) -> None:
    assert holds(f'virustest "{text}"', require="virustest", virus_value=value)


def test_environment() -> None:
    world = {"host": "mail.example", "name": "Sora"}
    assert holds('environment "HOST" "mail.example"', require="environment", environment=world)
    assert not holds('environment "remote-ip" ""', require="environment", environment=world)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("tags", "remembers_known"), [("", False), (":last", True), (':header "X-Number" :handle "h"', False)]
)
def test_duplicate(known: bool, tags: str, remembers_known: bool) -> None:
    script = f'require "duplicate"; if duplicate {tags} :seconds 60 {{ discard; }}'
    with pytest.raises(Unanswered) as raised:
        run(script)
    question = raised.value.question
    assert isinstance(question, SeenBefore)
    outcome = run(script, answers={question: known})
    assert told(outcome) == ["discard" if known else "implicit"]
    assert outcome.seen == ((Seen(question.key, 60),) if remembers_known or not known else ())


def test_duplicate_without_an_id_is_none() -> None:
    assert not holds('duplicate :header "x-absent"', require="duplicate")
    assert not holds('duplicate :uniqueid ""', require="duplicate")


def test_vacation() -> None:
    outcome = run(
        'require ["vacation-seconds", "variables"]; set "w" "away";'
        'vacation :seconds 0 :subject "S" :from "B <bob@example.com>" :addresses ["b@x.y"] "${w}";'
    )
    action, keep = outcome.actions
    assert isinstance(action, Vacation)
    assert (action.period_s, action.reason, action.subject) == (0, "away", "S")
    assert (action.sender, action.addresses) == ("B <bob@example.com>", ("b@x.y",))
    assert isinstance(keep, Keep)
    (other, _) = run('require "vacation"; vacation "there";').actions
    assert isinstance(other, Vacation)
    assert other.period_s == 7 * 86400
    assert other.handle != action.handle


def test_second_vacation_is_a_fault() -> None:
    assert "second vacation" in run('require "vacation"; vacation "a"; vacation "b";').fault


def test_notify() -> None:
    script = (
        'require ["enotify", "fcc"]; if valid_notify_method "mailto:a@b.c" {'
        'notify :importance "1" :message "m" :fcc "Sent" "mailto:a@b.c"; }'
        'if notify_method_capability "mailto:a@b.c" "online" "maybe" { discard; }'
    )
    outcome = run(script)
    assert told(outcome) == ["notify mailto:a@b.c 1 m", "discard"]
    first = outcome.actions[0]
    assert isinstance(first, Notify)
    assert first.copy is not None
    assert first.copy.mailbox == "Sent"


@pytest.mark.parametrize(
    ("commands", "header"),
    [
        ('addheader "X-A" "one";', b"X-A: one\r\nReturn-Path:"),
        ('addheader "X-A" "one\r\n  two\r\nthree\n\tfour";', b"X-A: one  two three four\r\nReturn-Path:"),
        ('addheader :last "X-A" "grüß";', b"X-A: =?utf-8?"),
        ('deleteheader "x-number";', b"X-Empty:\r\nContent-Type"),
        ('deleteheader :matches "subject" "nothing*"; addheader "A" "b";', b"Subject:"),
    ],
)
def test_editheader(commands: str, header: bytes) -> None:
    (action,) = run(f'require "editheader"; {commands}').actions
    assert isinstance(action, Keep)
    assert action.message is not None
    assert header in action.message.header
    assert action.message.body is None


def test_edits_are_seen_by_later_tests_and_actions_only() -> None:
    outcome = run(
        'require ["editheader", "fileinto"]; fileinto "A"; addheader "X-A" "1";'
        'if header "x-a" "1" { fileinto "B"; } deleteheader "x-a"; if exists "x-a" { fileinto "C"; }'
    )
    first, second = outcome.actions
    assert isinstance(first, FileInto)
    assert isinstance(second, FileInto)
    assert first.message is None
    assert second.message is not None


@pytest.mark.parametrize("name", ["Received", "Auto-Submitted", "return-path"])
def test_trace_fields_cannot_be_deleted(name: str) -> None:
    outcome = run(f'require "editheader"; deleteheader "{name}";')
    assert told(outcome) == ["implicit"]
    assert outcome.actions[0] == Keep(None)
    assert outcome.notes


INNER = IncludeName("personal", "inner")


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ('include "inner"; discard;', "keep;", ["keep", "discard"]),
        ('include "inner"; discard;', 'require "include"; return; keep;', ["discard"]),
        ('include "inner"; discard;', "stop;", ["implicit"]),
        ('include :once "inner"; include :once "inner";', "keep;", ["keep"]),
        ('include :optional "absent"; discard;', "", ["discard"]),
        ('set "v" "a"; include "inner"; fileinto "${v}";', 'require "variables"; set "v" "b";', ["file a"]),
        (
            'global "v"; set "v" "a"; include "inner"; fileinto "${v}";',
            'require ["variables", "include"]; global "v"; set "v" "${v}b";',
            ["file ab"],
        ),
        (
            'include "inner"; fileinto "${global.v}";',
            'require ["variables", "include"]; set "global.v" "x";',
            ["file x"],
        ),
    ],
)
def test_include(outer: str, inner: str, expected: list[str]) -> None:
    library = {INNER: compiled(inner)}
    assert told(run(f'require ["include", "variables", "fileinto"]; {outer}', library=library)) == expected


def test_includes_that_go_round_end() -> None:
    library = {INNER: compiled('require "include"; include "inner"; include "inner";')}
    assert "include" in run('require "include"; include "inner";', library=library).fault


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('if ihave "fileinto" { fileinto "A"; } else { discard; }', ["file A"]),
        ('if ihave "vnd.absent" { absent :x "y"; } else { discard; }', ["discard"]),
        ('if not ihave ["fileinto", "vnd.absent"] { discard; }', ["discard"]),
    ],
)
def test_ihave(script: str, expected: list[str]) -> None:
    assert told(run(f'require "ihave"; {script}')) == expected


def test_what_ihave_deferred_fails_when_it_is_reached() -> None:
    assert "absent" in run('require "ihave"; if not ihave "vnd.x" { absent; }').fault
    assert "so it is" in run('require "ihave"; error "so it is";').fault


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('header :mime :type "content-type" "multipart"', True),
        ('header :mime :anychild :contenttype "content-type" "text/html"', True),
        ('header :mime :anychild :subtype "content-type" "gif"', False),
        ('header :mime :anychild :param "filename" "content-disposition" "page.html"', True),
        ('exists :mime :anychild "content-disposition"', True),
        ('exists :mime "content-disposition"', False),
    ],
)
def test_mime(test: str, expected: bool) -> None:
    assert holds(test, require="mime") is expected


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ('foreverypart { if header :mime :subtype "content-type" "html" { discard; break; } }', ["discard"]),
        (
            'foreverypart { if header :mime :subtype "content-type" "plain"'
            ' { extracttext :first 5 "t"; fileinto "${t}"; } }',
            ["file Hello"],
        ),
        (
            'foreverypart :name "o" { foreverypart { break :name "o"; } keep; } discard;',
            ["discard"],
        ),
        ('foreverypart :name "" { foreverypart { break :name ""; } keep; } discard;', ["discard"]),
    ],
)
def test_loops(commands: str, expected: list[str]) -> None:
    need = '["foreverypart", "mime", "extracttext", "variables", "fileinto"]'
    assert told(run(f"require {need}; {commands}")) == expected


def test_a_loop_of_an_included_script_ends_alone() -> None:
    library = {INNER: compiled('require "foreverypart"; foreverypart :name "o" { break :name "o"; }')}
    script = (
        'require ["foreverypart", "include", "mime", "fileinto"];'
        ' foreverypart :name "o" { include "inner"; fileinto "Still here"; } discard;'
    )
    assert told(run(script, library=library)) == ["file Still here", "discard"]


def test_replace_of_a_part_leaves_the_others() -> None:
    need = '["foreverypart", "mime", "replace"]'
    test = 'header :mime :contenttype "content-type" "text/html"'
    (action,) = run(f'require {need}; foreverypart {{ if {test} {{ replace "gone"; }} }}').actions
    assert isinstance(action, Keep)
    assert action.message is not None
    assert action.message.body is not None
    assert b"gone" in action.message.body
    assert b"marked" not in action.message.body
    assert b"SGVsbG8gd8O2cmxk" in action.message.body
    assert action.message.body.endswith(b"\r\n--x--\r\n")


def stored(script: str) -> tuple[list[bytes], bytes]:
    """Lines of the header that begin a field, and the body, of what is kept."""
    (action,) = run(script).actions
    assert isinstance(action, Keep)
    assert action.message is not None
    assert action.message.body is not None
    return [line for line in action.message.header.split(b"\r\n") if line[:1].strip()], action.message.body


def test_replace_keeps_what_it_supersedes() -> None:
    lines, body = stored('require "replace"; replace :subject "Now" :from "me@example.com" "gone";')
    assert body == b"gone"
    assert b"Subject: Now" in lines
    assert b"From: me@example.com" in lines
    assert b"Original-Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from [list] 42" in lines
    assert b'Original-From: "Ann, Dr." <Ann+work@Example.ORG>' in lines
    assert "have no use" in mistakes('require "replace"; replace :mime :subject "x" "y";')
    assert "is not an address" in run('require "replace"; replace :from "nobody" "x";').fault


def test_enclose_wraps_the_message() -> None:
    lines, body = stored(
        'require "enclose"; enclose :subject "Wrapped" :headers ["to", "x-number"] "Take care";'
    )
    assert b"Take care" in body
    assert MESSAGE in body
    assert [line.partition(b":")[0] for line in lines] == [
        *(b"Return-Path", b"Received", b"Received", b"To", b"X-Number"),
        *(b"MIME-Version", b"Content-Type", b"From", b"Date", b"Message-ID", b"Subject"),
    ]
    assert b"Subject: Wrapped" in lines
    assert b"From: <bob+lists@example.com>" in lines
    assert b"Date: Sun, 22 Nov 2026 14:05:09 +0000" in lines


def test_enclose_copies_the_subject_and_what_it_is_told_to() -> None:
    lines, _ = stored('require "enclose"; enclose :headers ["From", "Date", "message-id"] "Take care";')
    assert b"Date: Tue, 1 Apr 1997 09:06:31 -0800" in lines
    assert b"Message-ID: <one@example.org>" in lines
    assert b'From: "Ann, Dr." <Ann+work@Example.ORG>' in lines
    assert b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from [list] 42" in lines
