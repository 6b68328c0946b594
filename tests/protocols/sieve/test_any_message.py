"""Whatever the octets of a message are, scripts run on it, and nothing but an outcome comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.sieve.outcome import Keep

from .running import MESSAGE, run

SCRIPT = """
require ["relational", "regex", "envelope", "subaddress", "variables", "imap4flags", "date", "index", "body",
         "mime", "foreverypart", "extracttext", "editheader", "spamtest", "virustest",
         "comparator-i;unicode-casemap"];
if header :matches ["subject", "x-number", "from"] "*?a*" { set "a" "${1}${2}"; }
if header :regex ["subject", "received"] "([a-z]+)[^a-z]*(.*)$" { set "b" "${2}"; }
if header :comparator "i;unicode-casemap" :contains ["subject", "to"] "grü" { addflag "c"; }
if address :detail :contains ["from", "to", "cc"] "" { addflag "d"; }
if date :value "lt" "date" "iso8601" "2000" { addflag "e"; }
if date :index 1 :last :zone "+0100" "received" "std11" "x" { addflag "f"; }
if body :text :contains "text" { addflag "g"; }
if body :content "" :matches "*x*" { addflag "h"; }
if header :mime :anychild :param "name" "content-type" "x" { addflag "i"; }
foreverypart { extracttext :first 100 "t"; if exists :mime "content-type" { addflag "j"; } }
if anyof (spamtest "0", virustest "0") { addflag "k"; }
addheader "X-Found" "${a} ${b} ${t}";
deleteheader :contains "subject" "x";
keep;
"""

PIECES = st.sampled_from([MESSAGE[at : at + 40] for at in range(0, len(MESSAGE), 40)])


@settings(max_examples=120, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=20), max_size=40).map(b"".join))
def test_any_message_has_an_outcome(message: bytes) -> None:
    outcome = run(SCRIPT, message=message)
    assert outcome.fault == ""
    (kept,) = outcome.actions
    assert isinstance(kept, Keep)
    assert kept.message is not None
    assert kept.message.header.startswith(b"X-Found:")
