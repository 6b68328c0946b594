"""Scripts and messages on which two Sieve engines should agree."""

from __future__ import annotations

from tests.protocols.sieve.running import MESSAGE

PLAIN = b"""\
Received: from a.example (a.example [192.0.2.1]) by b.example id 1; Mon, 05 Feb 2024 23:59:59 -0330\r
From: coyote@desert.example.org\r
To: roadrunner@acme.example.com, "Road, R." <rr+fast@acme.example.com>\r
Cc: =?iso-8859-1?q?J=F6rg?= <joerg@example.de>\r
Subject: I have a present for you\r
Date: Mon, 05 Feb 2024 12:00:00 +0000\r
List-Id: Dev list <dev.lists.example.org>\r
X-Spam-Score: 7.5\r
X-Mailer: Foo 1.2\r
X-Mailer: Bar 3.4\r
X-Folded: one\r
\ttwo\r
 three\r
X-Blank:    \r
\r
Look, I'm sorry about the whole anvil thing, and I really\r
didn't mean to try and drop it on you from the top of the\r
cliff. $$$ MAKE MONEY FAST\r
"""
BARE = b"Subject: =?utf-8?b?w4TDlsOc?= x\r\n\r\n"
ODD = b"""\
From: "a \\"quoted\\" b" <"local part"@example.com>\r
To: Friends: one@example.com, Two <two@example.com>;, three@example.com\r
Subject: =?utf-8?q?broken=ZZ?= =?nonsense?q?x?= plain\r
Date: not a date\r
X-Number: 0042 apples\r
\r
caf\xc3\xa9\r
"""
MESSAGES = {"parts": MESSAGE, "plain": PLAIN, "bare": BARE, "odd": ODD}

_FIELDS = ("subject", "from", "to", "cc", "x-mailer", "x-folded", "x-blank", "list-id", "x-absent")
_KEYS = ("", "a", "present", "I have a present for you", "one two three", "Bar 3.4", "äöü x", "example.org")
_GLOBS = ("", "*", "?", "*present*", "I*y?u", "*\\\\**", "??? *", "*.*", "Foo*", "*?*?*?*", "[a-z]*")
_REGEXES = (
    "present",
    "^I.*you$",
    "(foo|bar) [0-9]",
    "[[:alpha:]]+@[[:alnum:].]+",
    "^$",
    "(a|ab)(c|bcd)*",
    "x{2,}|o{2}",
    "[^[:space:]]+ +[^ ]",
    "\\\\.",
)
_ADDRESS_FIELDS = ("from", "to", "cc", "sender")
_ADDRESSES = (
    "rr+fast@acme.example.com",
    "acme.example.com",
    "rr",
    "fast",
    "coyote",
    "joerg",
    "two@example.com",
    "",
)

HEADER_TESTS = [
    *(f'header :{how} "{name}" "{key}"' for how in ("is", "contains") for name in _FIELDS for key in _KEYS),
    *(f'header :matches "{name}" "{glob}"' for name in _FIELDS for glob in _GLOBS),
    *(f'header :regex "{name}" "{regex}"' for name in _FIELDS for regex in _REGEXES),
    *(f'exists "{name}"' for name in _FIELDS),
    'exists ["from", "x-absent"]',
    'exists ["from", "subject"]',
    *(f'header :comparator "i;octet" :contains "subject" "{key}"' for key in ("Present", "present", "ÄÖÜ")),
    *(
        f'header :count "{how}" :comparator "i;ascii-numeric" "x-mailer" "{n}"'
        for how in ("gt", "eq", "le", "ne")
        for n in (0, 1, 2)
    ),
    *(
        f'header :value "{how}" :comparator "i;ascii-numeric" "x-number" "{n}"'
        for how in ("gt", "ge", "lt", "eq")
        for n in (41, 42, 43)
    ),
    *(
        f'header :value "{how}" "subject" "{key}"'
        for how in ("gt", "lt", "ge")
        for key in ("H", "J", "i have")
    ),
    'header :contains ["to", "cc"] ["nobody", "joerg"]',
    'header :value "gt" :comparator "i;ascii-numeric" "subject" "5"',
]
ADDRESS_TESTS = [
    *(
        f'address :{how} :{part} "{name}" "{key}"'
        for how in ("is", "contains")
        for part in ("all", "localpart", "domain", "user", "detail")
        for name in _ADDRESS_FIELDS
        for key in _ADDRESSES
    ),
    *(
        f'envelope :{part} "{name}" "{key}"'
        for part in ("all", "localpart", "domain", "user", "detail")
        for name in ("from", "to")
        for key in _ADDRESSES
    ),
    'address :count "eq" :comparator "i;ascii-numeric" "to" "2"',
    'address :count "eq" :comparator "i;ascii-numeric" "to" "3"',
    'address :matches :domain "to" "*.com"',
]
SIZE_TESTS = [f"size :{how} {n}" for how in ("over", "under") for n in ("0", "30", "500", "1K", "1M")]
LOGIC_TESTS = [
    "allof (true, true)",
    "allof (true, false)",
    "anyof (false, true)",
    "anyof (false, false)",
    "not false",
    "not anyof (true, false)",
]
DATE_TESTS = [
    *(
        f'date {zone} "date" "{part}" "{value}"'
        for zone in ("", ":originalzone", ':zone "+0200"', ':zone "-1130"')
        for part, value in (
            ("year", "2024"),
            ("month", "02"),
            ("day", "05"),
            ("day", "06"),
            ("date", "2024-02-05"),
            ("hour", "12"),
            ("hour", "14"),
            ("minute", "30"),
            ("second", "00"),
            ("time", "00:30:00"),
            ("weekday", "1"),
            ("julian", "60345"),
            ("zone", "+0000"),
            ("zone", "+0200"),
            ("iso8601", "2024-02-05T14:00:00+02:00"),
            ("std11", "Mon, 05 Feb 2024 12:00:00 +0000"),
        )
        if zone
    ),
    'date :originalzone "received" "time" "23:59:59"',
    'date :originalzone :index 2 "received" "day" "20"',
    'date :index 1 :last :originalzone "received" "day" "20"',
    'header :index 2 "x-mailer" "Bar 3.4"',
    'header :index 1 :last "x-mailer" "Bar 3.4"',
    'header :index 3 "x-mailer" "Bar 3.4"',
    'currentdate :value "ge" "year" "2020"',
]
BODY_TESTS = [
    *(
        f'body {how} :contains "{key}"'
        for how in (":raw", ":text", ':content "text"', ':content "text/html"', ':content ""')
        for key in ("MONEY", "anvil", "wörld", "SGVsbG8", "café", "nothing of this")
    ),
    'body :raw :matches "*cliff*"',
    'body :text :is "x"',
]
MIME_TESTS = [
    'header :mime :type "content-type" "multipart"',
    'header :mime :anychild :contenttype "content-type" "text/html"',
    'header :mime :anychild :subtype "content-type" "plain"',
    'header :mime :anychild :param "filename" "content-disposition" "page.html"',
    'header :mime :anychild :param "name" "content-type" "page.html"',
    'exists :mime :anychild "content-disposition"',
]
STRING_TESTS = [
    'string "${nothing}" ""',
    'string :matches "a-b-c" "*-*"',
    'string :is "${1}" "a"',
    'string :is "${2}" "b-c"',
    'string :contains ["x", "yz"] "z"',
    'string :count "eq" :comparator "i;ascii-numeric" ["", "a", "b"] "2"',
    'string :regex "ab12" "([a-z]+)([0-9]+)"',
    'string "${1}|${2}" "ab|12"',
    'not string :matches "q" "x*"',
    'string "${1}" "ab"',
]
REQUIRE = (
    *("variables", "relational", "regex", "envelope", "subaddress", "comparator-i;ascii-numeric"),
    *("imap4flags", "date", "index", "body", "mime", "fileinto"),
)
GROUPS = {
    "header": HEADER_TESTS,
    "address": ADDRESS_TESTS,
    "size": SIZE_TESTS,
    "logic": LOGIC_TESTS,
    "date": DATE_TESTS,
    "body": BODY_TESTS,
    "mime": MIME_TESTS,
    "string": STRING_TESTS,
}


# Where Pigeonhole 0.5.19 is wrong by the RFCs; the ends of tests. "??? *" needs a space in the fourth place
# (RFC 5228 §2.7.1), the last Received field is the second (RFC 5260 §6).
WRONG_THERE = ('"??? *"', 'date :index 1 :last :originalzone "received" "day" "20"')


def script_of(tests: list[str], first: int) -> str:
    """Sets a flag for each test that is true, and keeps."""
    names = ", ".join(f'"{name}"' for name in REQUIRE)
    lines = [f'if {test} {{ addflag "t{n}"; }}' for n, test in enumerate(tests, first)]
    return "\n".join([f"require [{names}];", *lines, "keep;"]) + "\n"


# What the script does, in actions.
ACTION_SCRIPTS = [
    "keep;",
    "discard;",
    "discard; keep;",
    "stop; discard;",
    'require "fileinto"; fileinto "A"; fileinto "B"; fileinto "A";',
    'require "fileinto"; fileinto "A"; keep;',
    'require ["fileinto", "copy"]; fileinto :copy "A"; redirect :copy "a@example.net";',
    'redirect "a@example.net"; redirect "b@example.net";',
    'redirect "a@example.net"; discard;',
    'redirect "Ann <a@example.net>";',
    'redirect "<a@example.net>";',
    'redirect "a@[192.0.2.1]";',
    'require "copy"; redirect :copy "a@example.net"; redirect "b@example.net"; keep;',
    "discard; stop; keep;",
    'require "reject"; reject "no";',
    'require ["reject", "fileinto"]; reject "no"; fileinto "A";',
    'require ["imap4flags", "fileinto"]; setflag "a b"; fileinto "A"; removeflag "a";'
    ' fileinto :flags "c" "B"; keep;',
    'require ["variables", "fileinto"]; if header :matches "subject" "* have *" { fileinto "${2}"; }',
    'require ["variables", "fileinto"]; set :upperfirst :lower "x" "ABC"; set :length "y" "${x}d";'
    ' fileinto "${x}${y}";',
    'require ["variables", "fileinto", "encoded-character"]; set "a" "${hex:41}${unicode:c4}";'
    ' fileinto "${a}";',
    'require ["variables", "fileinto"]; set :quotewildcard "a" "x*?\\\\"; fileinto "${a}";',
    "if size :over 10 { if size :over 1M { discard; } elsif true { stop; } else { keep; } } discard;",
    'require "vacation"; vacation :days 3 "away"; ',
    'require ["ihave"]; if ihave "fileinto" { fileinto "A"; } elsif true { discard; }',
    'require ["ihave"]; if ihave "vnd.nobody.has" { frobnicate "A"; } else { discard; }',
    'require ["foreverypart", "mime", "fileinto"];'
    ' foreverypart { if header :mime :subtype "content-type" "html" { fileinto "Html"; break; } }',
    'require ["foreverypart", "mime", "extracttext", "variables", "fileinto"];'
    ' foreverypart { if header :mime :subtype "content-type" "plain" { extracttext :first 5 "t";'
    ' fileinto "T-${t}"; } }',
    'require ["editheader", "fileinto"]; addheader "X-A" "1"; if header "x-a" "1" { fileinto "A"; }'
    ' deleteheader "X-A"; if exists "x-a" { fileinto "B"; }',
    'require ["editheader", "fileinto"]; addheader "X-A" "1"; addheader "X-A" "2";'
    ' if header "x-a" "2" { fileinto "A"; } deleteheader "Received"; if exists "received" { fileinto "B"; }',
    'require ["editheader", "fileinto"]; addheader "X-N" "a\r\n b"; if header "x-n" "a b" { fileinto "A"; }',
    'require ["editheader", "fileinto", "index"]; deleteheader :index 1 :last "x-mailer";'
    ' if header "x-mailer" "Foo 1.2" { fileinto "A"; } if header "x-mailer" "Bar 3.4" { fileinto "B"; }',
    'require ["variables", "fileinto"]; set :length :quotewildcard :upper "x" "a*"; fileinto "L${x}";',
    'require ["variables", "fileinto"]; if allof (header :matches "subject" "I*",'
    ' header :matches "from" "*@*") { fileinto "${1}+${2}"; } if header :matches "from" "no*" { keep; }'
    ' fileinto "x${1}";',
    'require ["encoded-character", "fileinto"]; fileinto "$${hex:41}{x}${hex: 42  43 }${unicode:44}";',
    'require ["environment"]; if environment "location" "MS" { discard; }',
    'require ["fileinto", "mailbox"]; if mailboxexists "INBOX" { fileinto :create "A"; }',
]
# Whether they are scripts at all.
VALID_SCRIPTS = [
    "",
    "# comment only",
    "/* a */ keep /* b */ ; # c",
    "KEEP; IF TRUE { STOP; }",
    'if header :is "a" ["b", "c"] { keep; }',
    "redirect text:\na@example.net\n.\n;",
    'require "fileinto"; fileinto text: # comment\nA\n.\n;',
    "if not not true { keep; }",
    "if size :over 100k { } else { }",
    'require ["comparator-i;octet"]; if header :comparator "i;octet" "a" "b" { keep; }',
]
INVALID_SCRIPTS = [
    "keep",
    "keep;;",
    "frob;",
    "if frob { keep; }",
    'fileinto "A";',
    'require "vnd.nobody.has";',
    'keep; require "fileinto";',
    "if { keep; }",
    "if true keep;",
    "else { keep; }",
    "elsif true { keep; }",
    "if true { keep; } stop; else { keep; }",
    'if header :is :matches "a" "b" { keep; }',
    'if header "a" { keep; }',
    'if header "a" "b" "c" { keep; }',
    'if header :regex "a" "b" { keep; }',
    'require "regex"; if header :regex "a" "(" { keep; }',
    "if size 10 { keep; }",
    'if size :over "10" { keep; }',
    "if size :over :under 10 { keep; }",
    "if allof true { keep; }",
    "if not (true) { keep; }",
    "if anyof () { keep; }",
    "redirect;",
    'redirect "not an address";',
    'redirect "a@example.net, b@example.net";',
    'redirect "Friends: a@example.net;";',
    'require "editheader"; addheader "X:Y" "a";',
    'require "editheader"; addheader "X Y" "a";',
    "redirect text:\na@b.c\n",
    'keep "x";',
    "stop {}",
    '"keep";',
    "if true { keep;",
    "keep; }",
    'if header "a" ["b",] { keep; }',
    'if header "a" [] { keep; }',
    "if size :over 10X { keep; }",
    'require "variables"; set "1x" "y";',
    'require "variables"; set :upper :lower "x" "y";',
    'require "index"; if header :last "a" "b" { keep; }',
    'require "relational"; if header :value "xx" "a" "b" { keep; }',
    'if header :comparator "i;nothing" "a" "b" { keep; }',
    'require "comparator-i;ascii-numeric"; if header :comparator "i;'
    'ascii-numeric" :contains "a" "1" { keep; }',
    'require "enotify"; notify "nowhere:x";',
    'require "include"; include :personal :global "x";',
    'require "foreverypart"; break;',
    'require "foreverypart"; foreverypart :name "a" { break :name "b"; }',
    'require "foreverypart"; foreverypart { break :name ""; }',
    'require "foreverypart"; foreverypart :name "a" { keep; } foreverypart { break :name "a"; }',
    'require "ihave"; if ihave "foreverypart" { foreverypart { break :name "a"; } }',
    'require "vacation"; vacation :days "3" "x";',
    'require "imap4flags"; addflag "v" "x";',
    'require "envelope"; if envelope "nothing" "x" { keep; }',
    'if address "subject" "x" { keep; }',
]
