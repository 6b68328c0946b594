"""Envelopes and address lists."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import Corrupt
from storage.mime.envelope import (
    GROUP_END,
    MAX_ADDRESSES,
    MAX_TEXT_BYTES,
    Address,
    Envelope,
    decode_envelope,
    encode_envelope,
    parse_addresses,
    parse_envelope,
)

A = Address


def test_example_of_the_rfc() -> None:
    """RFC 9051 §8, the message of the sample session."""
    header = (
        b"Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\n"
        b"From: Terry Gray <gray@cac.washington.example>\r\n"
        b"Subject: IMAP4rev2 WG mtg summary and minutes\r\n"
        b"To: imap@cac.washington.example\r\n"
        b"cc: minutes@CNRI.Reston.VA.example, John Klensin <KLENSIN@MIT.EDU.example>\r\n"
        b"Message-Id: <B27397-0100000@cac.washington.example>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\n\r\n"
    )
    gray = [A(b"Terry Gray", None, b"gray", b"cac.washington.example")]
    assert parse_envelope(header) == Envelope(
        date=b"Wed, 17 Jul 1996 02:23:25 -0700 (PDT)",
        subject=b"IMAP4rev2 WG mtg summary and minutes",
        from_=gray,
        sender=gray,
        reply_to=gray,
        to=[A(None, None, b"imap", b"cac.washington.example")],
        cc=[
            A(None, None, b"minutes", b"CNRI.Reston.VA.example"),
            A(b"John Klensin", None, b"KLENSIN", b"MIT.EDU.example"),
        ],
        message_id=b"<B27397-0100000@cac.washington.example>",
    )


def test_absent_empty_and_repeated_fields() -> None:
    assert parse_envelope(b"") == Envelope()
    header = b"Subject:\r\nSubject: second\r\nFrom: a@b\r\nSender:\r\nReply-To: c@d\r\n\r\nTo: body@x\r\n"
    envelope = parse_envelope(header[: header.index(b"\r\n\r\n") + 4])
    assert envelope.subject == b""
    assert envelope.sender == [A(None, None, b"a", b"b")]  # an empty field is as none
    assert envelope.reply_to == [A(None, None, b"c", b"d")]
    assert envelope.to == []


def test_values_are_raw_but_fit_one_line() -> None:
    envelope = parse_envelope(
        b"Subject: =?utf-8?q?a?=\r\n =?utf-8?q?b?= \xe4\x00\r\nFrom: \xe4 \x00<a@b>\r\n\r\n"
    )
    assert envelope.subject == b"=?utf-8?q?a?= =?utf-8?q?b?= \xe4"
    assert envelope.from_ == [A(b"\xe4", None, b"a", b"b")]


def test_long_values_are_cut() -> None:
    envelope = parse_envelope(b"Subject: " + b"x" * 100_000 + b"\r\nTo: " + b"a@b," * 50_000 + b"\r\n\r\n")
    assert envelope.subject == b"x" * MAX_TEXT_BYTES
    assert len(envelope.to) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", []),
        (b" , ,, ", []),
        (b"a@b", [A(None, None, b"a", b"b")]),
        (b"<a@b>", [A(None, None, b"a", b"b")]),
        (b"  Pete  Q.  Public <a@b>", [A(b"Pete Q. Public", None, b"a", b"b")]),
        (b'"Doe, John" <a@b>, c@d', [A(b"Doe, John", None, b"a", b"b"), A(None, None, b"c", b"d")]),
        (b'"Giant; \\"Big\\" Box" <a@b>', [A(b'Giant; "Big" Box', None, b"a", b"b")]),
        (b'Who "is" it <a@b>', [A(b"Who is it", None, b"a", b"b")]),
        (b"=?utf-8?Q?a,b?= <a@b>", [A(b"=?utf-8?Q?a,b?=", None, b"a", b"b")]),
        (b"=?utf-8?Q?a?=\r\n =?utf-8?Q?b?= <a@b>", [A(b"=?utf-8?Q?a?= =?utf-8?Q?b?=", None, b"a", b"b")]),
        (b"a@b (Name (nested) \\) here)", [A(b"Name (nested) ) here", None, b"a", b"b")]),
        (b"Name (comment) <a@b>", [A(b"Name", None, b"a", b"b")]),
        (b"(only comment) <a@b>", [A(b"only comment", None, b"a", b"b")]),
        (b"<@r1.example,@r2.example:a@b>", [A(None, b"@r1.example,@r2.example", b"a", b"b")]),
        (b'"a b"@c', [A(None, None, b"a b", b"c")]),
        (b'<"a b"@c>', [A(None, None, b"a b", b"c")]),
        (b"a . b@c", [A(None, None, b"a.b", b"c")]),
        (b"<a . b @ c . d>", [A(None, None, b"a.b", b"c.d")]),
        (b"a@[192.0.2.1]", [A(None, None, b"a", b"[192.0.2.1]")]),
        (b"<a@[IPv6:2001:db8::1]>", [A(None, None, b"a", b"[IPv6:2001:db8::1]")]),
        (b"\xe4@\xf6.example", [A(None, None, b"\xe4", b"\xf6.example")]),
        # RFC 9051 §7.5.2: markers of a group
        (b"undisclosed-recipients:;", [A(None, None, b"undisclosed-recipients", None), GROUP_END]),
        (
            b"A Group:Ed Jones <joe@a.test>,joe@where.test;, c@d",
            [
                A(None, None, b"A Group", None),
                A(b"Ed Jones", None, b"joe", b"a.test"),
                A(None, None, b"joe", b"where.test"),
                GROUP_END,
                A(None, None, b"c", b"d"),
            ],
        ),
        (b"Group: a@b", [A(None, None, b"Group", None), A(None, None, b"a", b"b"), GROUP_END]),
        (b'"Quoted: group":;', [A(None, None, b"Quoted: group", None), GROUP_END]),
        (b"a@b; c@d", [A(None, None, b"a", b"b"), A(None, None, b"c", b"d")]),  # Outlook's separator
        # broken ones: something readable, and never host None
        (b"root", [A(None, None, b"root", b"")]),
        (b"root (Charlie)", [A(b"Charlie", None, b"root", b"")]),
        (b"John Doe", [A(b"John Doe", None, b"", b"")]),
        (b"<>", [A(None, None, b"", b"")]),
        (b"MAILER <>", [A(b"MAILER", None, b"", b"")]),
        (b"Name a@b", [A(b"Name", None, b"a", b"b")]),
        (b"Name <a@b", [A(b"Name", None, b"a", b"b")]),
        (b"Name <a@b, c@d", [A(b"Name", None, b"a", b"b"), A(None, None, b"c", b"d")]),
        (b"<<a@b>>", [A(None, None, b"a", b"b")]),
        (b"a@b@c", [A(None, None, b"a@b", b"c")]),
        (b"@", [A(None, None, b"", b"")]),
        (b"a@", [A(None, None, b"a", b"")]),
        (b"(never closed a@b", [A(b"( never closed", None, b"a", b"b")]),
        (b'"never closed <a@b>', [A(b'" never closed', None, b"a", b"b")]),
    ],
)
def test_addresses(raw: bytes, expected: list[Address]) -> None:
    assert parse_addresses(raw) == expected


def balanced(addresses: list[Address]) -> bool:
    """Group starts and ends alternate."""
    is_open = False
    for address in addresses:
        if address.host is None:
            if is_open != (address.mailbox is None):
                return False
            is_open = not is_open
    return not is_open


ALPHABET = st.sampled_from(
    [*(bytes([c]) for c in b'ab"\\(),:;<>@[] .\r\n\t\x00\xe4?='), b"=?utf-8?q?x?=", b"a@b,"]
)


@settings(max_examples=200)
@given(st.lists(ALPHABET, max_size=60).map(b"".join))
@example(b"(" * 50)
@example(b'"\\' * 50)
def test_any_list_is_read(raw: bytes) -> None:
    found = parse_addresses(raw)
    assert balanced(found)
    for address in found:
        values = [value for value in (address.name, address.adl, address.mailbox, address.host) if value]
        assert not any(bad in value for value in values for bad in (b"\r", b"\n", b"\0"))
        assert address.mailbox is not None or address is GROUP_END
    envelope = parse_envelope(b"To: " + raw)
    assert decode_envelope(encode_envelope(envelope)) == envelope


@pytest.mark.parametrize(
    "raw", [b"g:" + b"a@b," * 5000, b"g:a;" * 5000, b"x (y) <a@b>," * 5000, b'"a" b,' * 5000]
)
def test_lists_are_bounded_with_groups_closed(raw: bytes) -> None:
    found = parse_addresses(raw)
    assert MAX_ADDRESSES - 2 <= len(found) <= MAX_ADDRESSES
    assert balanced(found)


def test_foreign_bytes_are_corrupt() -> None:
    for data in (b"", b"\xc1", b"\x81\x01\x02", b"\x91\x01"):
        with pytest.raises(Corrupt):
            decode_envelope(data)
