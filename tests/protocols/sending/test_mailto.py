"""mailto URIs: who is notified, and what the URI may say."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.sending.mailto import MAX_RECIPIENTS, Mailto, parse_mailto
from protocols.sieve.ext.notifications import mailto_recipients


def mailto(uri: str) -> Mailto:
    found = parse_mailto(uri)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("uri", "to", "cc"),
    [
        ("mailto:a@b.test", ["a@b.test"], []),
        ("MAILTO:a@b.test,c@d.test", ["a@b.test", "c@d.test"], []),
        ("mailto:a%40b.test", ["a@b.test"], []),
        ("mailto:?to=a@b.test&cc=c@d.test", ["a@b.test"], ["c@d.test"]),
        ("mailto:a@b.test?to=A@B.test&cc=a@b.test,e@f.test", ["a@b.test"], ["e@f.test"]),
        ("mailto:a%2Bx@b.test?bcc=c@d.test", ["a+x@b.test"], []),
        ("mailto:?cc=a@b.test", [], ["a@b.test"]),
        ("mailto:a@b.test,a%0D%0ABcc:%20c@d.test,e%2Cf@g.test", ["a@b.test"], []),
    ],
)
def test_recipients(uri: str, to: list[str], cc: list[str]) -> None:
    assert (list(mailto(uri).to), list(mailto(uri).cc)) == (to, cc)


def test_there_are_not_too_many() -> None:
    found = mailto("mailto:" + ",".join(f"a{n}@b.test" for n in range(50)) + "?cc=c@d.test")
    assert len(found.to) + len(found.cc) == MAX_RECIPIENTS


@pytest.mark.parametrize(
    "uri", ["", "mailto:", "mailto:?subject=x", "xmpp:a@b.test", "mailto:nobody", "a@b.test"]
)
def test_names_nobody(uri: str) -> None:
    assert parse_mailto(uri) is None


def test_what_a_uri_may_say() -> None:
    found = mailto(
        "mailto:a@b.test?subject=One%20%26%20two&Body=Line%0D%0Aline+plus&Importance=high&KEYWORDS=x"
        "&subject=other&importance=low"
    )
    assert (found.subject, found.body) == ("One & two", "Line\r\nline+plus")
    assert dict(found.fields) == {"Importance": "high", "Keywords": "x"}
    assert not found.ignored


REFUSED = (
    *("from", "sender", "date", "message-id", "received", "auto-submitted", "bcc", "reply-to"),
    *("content-type", "resent-to", "x-spam-flag", "list-id", "return-path", "mime-version", "x%0d%0abcc"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_uri_may_not_say(name: str) -> None:
    found = mailto(f"mailto:a@b.test?{name}=x")
    assert found.fields == ()
    assert len(found.ignored) == 1


@settings(max_examples=200, deadline=None)
@given(st.text("ab@.,?&=%2C0D+to:subjecy#\r\n ", max_size=80).map(lambda text: f"mailto:{text}"))
@example("mailto:a@b.test?subject")
@example("mailto:a@b.test?=&&=x")
def test_whom_the_engine_finds_is_found_here(uri: str) -> None:
    found, theirs = parse_mailto(uri), mailto_recipients(uri)
    if found is not None and theirs is not None:
        assert set(found.to) <= set(theirs)
