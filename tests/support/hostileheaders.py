"""Headers of a million octets, and tests of scripts that are made to take long on them."""

from __future__ import annotations

import hashlib

OCTETS = 1_000_000
REQUIRE = 'require ["regex", "variables", "comparator-i;unicode-casemap", "relational"];\n'
TESTS = (
    'header :regex "subject" "(a*)*b"',
    'header :regex "subject" "(a|a|aa)+$b"',
    'header :regex "subject" "^(([a-z])+.)+[A-Z]([a-z])+[0-9]"',
    'header :regex "subject" "(.*)(.*)(.*)(.*)(.*)[0-9]"',
    'header :regex "subject" "[0-7].{200}Z"',
    'header :regex "subject" "((a|b){0,60}c){9}"',
    'header :matches "subject" "*a*a*a*a*a*a*a*a*b"',
    f'header :matches "subject" "*{"a?" * 1000}b*"',
    f'header :contains "subject" "{"a" * 1000}b"',
    'header :comparator "i;unicode-casemap" :contains "subject" "ab"',
    'header :value "gt" "subject" "zz"',
    'address :all :contains ["from", "to", "cc"] "nobody"',
    'anyof (exists "x-none", header :matches ["x-none", "x", "subject"] "?*?*?b")',
)


def _noise(octets: int) -> bytes:
    pieces = (hashlib.sha256(b"%d" % n).hexdigest().encode() for n in range(octets // 64))
    return b"".join(pieces)


HEADERS = {
    "one letter": b"Subject: " + b"a" * OCTETS + b"\r\n",
    "noise": b"Subject: " + _noise(OCTETS) + b"\r\n",
    "folded": b"Subject:" + b" a\r\n" * (OCTETS // 4) + b" b\r\n",
    "encoded words": b"Subject: " + b"=?utf-8?q?=61=62?= " * (OCTETS // 19) + b"\r\n",
    "addresses": b"To: " + b"a@b.example, " * (OCTETS // 13) + b"\r\nSubject: aa\r\n",
    "comments": b"To: " + b"(" * OCTETS + b"\r\nSubject: aa\r\n",
    "fields": b"x:y\r\n" * (OCTETS // 5) + b"Subject: aa\r\n",
}
