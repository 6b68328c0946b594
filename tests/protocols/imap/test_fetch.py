"""FETCH: every item, budgets, and what happens to messages that cannot be had."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from protocols.errors import PeerGone
from storage.errors import Corrupt, Unavailable
from storage.model import FlagChange, SystemFlag, Uid, Wanted

from .selected import Selected, Stored, select

PREFIX = b"Return-Path: <fred@example.test>\r\nDelivered-To: joe@example.test\r\n"
HEADER = (
    b"Date: Mon, 7 Feb 1994 21:52:25 -0800\r\n"
    b"From: Fred Foobar <foobar@Blurdybloop.example>\r\n"
    b"Subject: afternoon meeting\r\n"
    b"To: mooch@owatagu.siam.edu.example\r\n"
    b"Message-Id: <B27397-0100000@Blurdybloop.example>\r\n"
    b"\r\n"
)
TEXT = b"Hello Joe, do you think we can meet at 3:30 tomorrow?\r\n"
MESSAGE = HEADER + TEXT
NESTED_HEADER = b"Subject: inner\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n"
NESTED = NESTED_HEADER + (
    b"--in\r\n\r\ninner plain\r\n--in\r\nContent-Type: text/html\r\n\r\n<p>inner</p>\r\n--in--\r\n"
)
MULTI_HEADER = b"Subject: outer\r\nMime-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=out\r\n\r\n"
PART_2_HEADER = (
    b"Content-Type: application/octet-stream; name=x.bin\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename=x.bin\r\n\r\n"
)
MULTI = MULTI_HEADER + (
    b"--out\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nfirst part\r\n"
    b"--out\r\n" + PART_2_HEADER + b"AAEC\r\n/w==\r\n"
    b"--out\r\nContent-Type: message/rfc822\r\n\r\n" + NESTED + b"\r\n--out--\r\n"
)


def one(content: bytes = MESSAGE, **facts: object) -> Selected:
    return select([Stored(5, content, **facts)])  # type: ignore[arg-type]


def lit(data: bytes) -> bytes:
    return b"{%d}\r\n%b" % (len(data), data)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"FETCH 1 FLAGS", b"FLAGS (\\Seen $Work)"),
        (b"FETCH 1 (UID FLAGS)", b"UID 5 FLAGS (\\Seen $Work)"),
        (b"FETCH 1 UID", b"UID 5"),
        (b"UID FETCH 5 FLAGS", b"UID 5 FLAGS (\\Seen $Work)"),
        (b"UID FETCH 5 (FLAGS UID)", b"UID 5 FLAGS (\\Seen $Work)"),
        (b"FETCH 1 INTERNALDATE", b'INTERNALDATE "17-Jul-1996 09:44:25 +0000"'),
        (b"FETCH 1 RFC822.SIZE", b"RFC822.SIZE %d" % len(PREFIX + MESSAGE)),
        (b"FETCH 1 MODSEQ", b"MODSEQ (9)"),
        (
            b"FETCH 1 FAST",
            b'FLAGS (\\Seen $Work) INTERNALDATE "17-Jul-1996 09:44:25 +0000" RFC822.SIZE %d'
            % len(PREFIX + MESSAGE),
        ),
        (b"FETCH 1 body.peek[]", b"BODY[] " + lit(PREFIX + MESSAGE)),
        (b"FETCH 1 RFC822", b"RFC822 " + lit(PREFIX + MESSAGE)),
        (b"FETCH 1 RFC822.HEADER", b"RFC822.HEADER " + lit(PREFIX + HEADER)),
        (b"FETCH 1 RFC822.TEXT", b"RFC822.TEXT " + lit(TEXT)),
        (b"FETCH 1 BODY[HEADER]", b"BODY[HEADER] " + lit(PREFIX + HEADER)),
        (b"FETCH 1 BODY[TEXT]", b"BODY[TEXT] " + lit(TEXT)),
        (b"FETCH 1 BODY[1]", b"BODY[1] " + lit(TEXT)),
        (b"FETCH 1 BODY[2]", b"BODY[2] NIL"),
        (b"FETCH 1 BODY[1.1]", b"BODY[1.1] NIL"),
        (
            b'FETCH 1 BODY[HEADER.FIELDS (subject "Delivered-To")]',
            b"BODY[HEADER.FIELDS (subject Delivered-To)] "
            + lit(b"Delivered-To: joe@example.test\r\nSubject: afternoon meeting\r\n\r\n"),
        ),
        (
            b"FETCH 1 BODY[HEADER.FIELDS.NOT (Date From Subject To Message-ID)]",
            b"BODY[HEADER.FIELDS.NOT (Date From Subject To Message-ID)] " + lit(PREFIX + b"\r\n"),
        ),
        (b"FETCH 1 BODY[HEADER.FIELDS (X-Not)]", b"BODY[HEADER.FIELDS (X-Not)] " + lit(b"\r\n")),
        (b"FETCH 1 BODY[]<0.6>", b"BODY[]<0> " + lit(b"Return")),
        (b"FETCH 1 BODY[]<99999.6>", b'BODY[]<99999> ""'),
        (b"FETCH 1 BODY[TEXT]<6.3>", b"BODY[TEXT]<6> " + lit(b"Joe")),
        (b"FETCH 1 BODY[TEXT]<50.18446744073709>", b"BODY[TEXT]<50> " + lit(TEXT[50:])),
        (b"FETCH 1 BODY[HEADER]<2.4>", b"BODY[HEADER]<2> " + lit(b"turn")),
        (b"FETCH 1 BINARY[1]", b"BINARY[1] " + lit(TEXT)),
        (b"FETCH 1 BINARY.SIZE[1]", b"BINARY.SIZE[1] %d" % len(TEXT)),
        (b"FETCH 1 BINARY.PEEK[]", b"BINARY[] " + lit(PREFIX + MESSAGE)),
        (b"FETCH 1 BINARY.SIZE[]", b"BINARY.SIZE[] %d" % len(PREFIX + MESSAGE)),
    ],
)
async def test_items(line: bytes, expected: bytes) -> None:
    session = one(prefix=PREFIX, flags=SystemFlag.SEEN, keywords=frozenset({"$Work"}), modseq=9)
    assert await session.text(line) == b"* 1 FETCH (%b)\r\n" % expected


ENVELOPE = (
    b'("Mon, 7 Feb 1994 21:52:25 -0800" "afternoon meeting" '
    b'(("Fred Foobar" NIL "foobar" "Blurdybloop.example")) '
    b'(("Fred Foobar" NIL "foobar" "Blurdybloop.example")) '
    b'(("Fred Foobar" NIL "foobar" "Blurdybloop.example")) '
    b'((NIL NIL "mooch" "owatagu.siam.edu.example")) NIL NIL NIL '
    b'"<B27397-0100000@Blurdybloop.example>")'
)
PLAIN_BODY = b'"TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 55 1'


async def test_envelope_and_structure_of_the_rfc_message() -> None:
    """RFC 9051 §7.5.2 and the APPEND example of §6.3.12, which this message is."""
    session = one(flags=SystemFlag.SEEN)
    assert await session.text(b"FETCH 1 ENVELOPE") == b"* 1 FETCH (ENVELOPE %b)\r\n" % ENVELOPE
    assert await session.text(b"FETCH 1 BODY") == b"* 1 FETCH (BODY (%b))\r\n" % PLAIN_BODY
    extended = PLAIN_BODY + b" NIL NIL NIL NIL"
    assert await session.text(b"FETCH 1 BODYSTRUCTURE") == b"* 1 FETCH (BODYSTRUCTURE (%b))\r\n" % extended
    full = await session.text(b"FETCH 1 FULL")
    assert full.endswith(b" ENVELOPE %b BODY (%b))\r\n" % (ENVELOPE, PLAIN_BODY))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (b"1", b"first part"),
        (b"1.MIME", b"Content-Type: text/plain; charset=utf-8\r\n\r\n"),
        (b"2", b"AAEC\r\n/w=="),
        (b"2.MIME", PART_2_HEADER),
        (b"3", NESTED),
        (b"3.HEADER", NESTED_HEADER),
        (b"3.HEADER.FIELDS (Subject)", b"Subject: inner\r\n\r\n"),
        (b"3.TEXT", NESTED.removeprefix(NESTED_HEADER)),
        (b"3.1", b"inner plain"),
        (b"3.2", b"<p>inner</p>"),
        (b"3.2.MIME", b"Content-Type: text/html\r\n\r\n"),
        (b"TEXT", MULTI.removeprefix(MULTI_HEADER)),
        (b"", MULTI),
    ],
)
async def test_sections_of_a_nested_message(section: bytes, expected: bytes) -> None:
    """The prefix shifts offsets and belongs to the whole and the message's own header only."""
    for prefix in (b"", PREFIX):
        session = one(MULTI, prefix=prefix)
        whole = prefix + expected if not section else expected
        answer = await session.text(b"FETCH 1 BODY.PEEK[%b]" % section)
        assert answer == b"* 1 FETCH (BODY[%b] %b)\r\n" % (section, lit(whole))


async def test_structure_of_a_nested_message() -> None:
    answer = await one(MULTI).text(b"FETCH 1 BODYSTRUCTURE")
    assert b'("APPLICATION" "OCTET-STREAM" ("NAME" "x.bin") NIL NIL "BASE64" 10 NIL ' in answer
    assert b'("ATTACHMENT" ("FILENAME" "x.bin")) NIL NIL)' in answer
    assert b'("MESSAGE" "RFC822" NIL NIL NIL "7BIT" %d (NIL "inner" ' % len(NESTED) in answer
    assert answer.endswith(b' "MIXED" ("BOUNDARY" "out") NIL NIL NIL))\r\n')
    assert answer.count(b"(") == answer.count(b")")
    plain = await one(MULTI).text(b"FETCH 1 BODY")
    assert b"ATTACHMENT" not in plain
    assert b"BOUNDARY" not in plain


async def test_binary_undoes_the_encoding_and_says_literal8_for_nul() -> None:
    session = one(MULTI, flags=SystemFlag.SEEN)
    assert await session.text(b"FETCH 1 BINARY[2]") == b"* 1 FETCH (BINARY[2] ~{4}\r\n\x00\x01\x02\xff)\r\n"
    assert await session.text(b"FETCH 1 BINARY[2]<3.9>") == b"* 1 FETCH (BINARY[2]<3> {1}\r\n\xff)\r\n"
    assert await session.text(b"FETCH 1 BINARY.SIZE[2]") == b"* 1 FETCH (BINARY.SIZE[2] 4)\r\n"
    assert await session.text(b"FETCH 1 BINARY[9]") == b"* 1 FETCH (BINARY[9] NIL)\r\n"
    assert await session.text(b"FETCH 1 BINARY.SIZE[9]") == b"* 1 FETCH (BINARY.SIZE[9] 0)\r\n"


async def test_binary_of_an_unknown_encoding_is_refused_and_the_others_are_answered() -> None:
    odd = b"Content-Transfer-Encoding: x-odd\r\n\r\nabc"
    session = select([Stored(1, odd), Stored(2, b"Subject: x\r\n\r\nabc")])
    outcome, data = await session.run(b"FETCH 1:2 BINARY.PEEK[1]")
    assert (outcome.status, outcome.code) == (b"NO", b"UNKNOWN-CTE")
    assert data == b"* 2 FETCH (BINARY[1] {3}\r\nabc)\r\n"


async def test_eight_bit_header_values_become_literals_or_utf8_strings() -> None:
    content = "Subject: Grüße\r\n\r\n".encode()
    session = one(content)
    value = "Grüße".encode()
    assert b" %b " % lit(value) in await session.text(b"FETCH 1 ENVELOPE")
    session.utf8 = True
    assert b' "%b" ' % value in await session.text(b"FETCH 1 ENVELOPE")
    session = one(b"Subject: Gr\xfc\xdfe\r\n\r\n")
    session.utf8 = True  # not UTF-8: never in a quoted string
    assert b" {5}\r\nGr\xfc\xdfe " in await session.text(b"FETCH 1 ENVELOPE")


async def test_quotes_and_backslashes_are_escaped() -> None:
    answer = await one(b'Subject: say "a\\b"\r\n\r\n').text(b"FETCH 1 ENVELOPE")
    assert b'"say \\"a\\\\b\\""' in answer


async def test_nul_and_bare_line_ends_are_returned_verbatim() -> None:
    content = b"Subject: a\0b\n\nx\0y\rz"
    answer = await one(content).text(b"FETCH 1 (BODY.PEEK[] ENVELOPE)")
    assert lit(content) in answer
    assert b"\0" not in answer.replace(lit(content), b"")


# --- \Seen ----------------------------------------------------------------------------------------


async def test_reading_sets_seen_once_for_all_and_tells_it() -> None:
    messages = [Stored(n, MESSAGE + b"%d" % n) for n in range(1, 4)]
    messages[1].flags = SystemFlag.SEEN
    session = select(messages)
    answer = await session.text(b"FETCH 1:3 BODY[TEXT]<0.5>")
    assert answer == (
        b"* 1 FETCH (BODY[TEXT]<0> {5}\r\nHello FLAGS (\\Seen))\r\n"
        b"* 2 FETCH (BODY[TEXT]<0> {5}\r\nHello)\r\n"
        b"* 3 FETCH (BODY[TEXT]<0> {5}\r\nHello FLAGS (\\Seen))\r\n"
    )
    assert session.mail.stores == [((1, 3), FlagChange.ADD)]
    assert [change.modseq for change in session.published] == [2]
    assert not session.view.pending


async def test_flags_asked_for_are_those_after_the_change_and_come_once() -> None:
    session = one()
    answer = await session.text(b"FETCH 1 (FLAGS BODY[TEXT]<0.1>)")
    assert answer == b"* 1 FETCH (FLAGS (\\Seen) BODY[TEXT]<0> {1}\r\nH)\r\n"


async def test_modseq_of_the_change_is_told_once_condstore_is_enabled() -> None:
    session = one(modseq=41)
    session.enable_condstore()
    answer = await session.text(b"FETCH 1 BODY[HEADER.FIELDS (To)]<0.3>")
    assert answer.endswith(b" FLAGS (\\Seen) MODSEQ (42))\r\n")


@pytest.mark.parametrize("line", [b"FETCH 1 BODY.PEEK[]", b"FETCH 1 RFC822.HEADER", b"FETCH 1 BODYSTRUCTURE"])
async def test_peeking_sets_nothing(line: bytes) -> None:
    session = one()
    await session.text(line)
    assert session.mail.stores == []


async def test_an_examined_mailbox_is_not_changed() -> None:
    session = select([Stored(1, MESSAGE)], read_only=True)
    assert b"FLAGS" not in await session.text(b"FETCH 1 BODY[]")
    assert session.mail.stores == []


async def test_recent_is_shown_but_not_after_enabling_rev2() -> None:
    session = select([Stored(1, MESSAGE), Stored(2, MESSAGE + b"2")], recent_from=2)
    assert await session.text(b"FETCH 1:2 FLAGS") == (
        b"* 1 FETCH (FLAGS ())\r\n* 2 FETCH (FLAGS (\\Recent))\r\n"
    )
    session.rev2 = True
    assert b"Recent" not in await session.text(b"FETCH 1:2 FLAGS")


# --- what cannot be had ---------------------------------------------------------------------------


async def test_an_unreachable_body_is_left_out_never_empty_and_the_others_go_on() -> None:
    messages = [Stored(n, MESSAGE + b"%d" % n) for n in range(1, 4)]
    messages[1].error = Unavailable("object store away")
    session = select(messages)
    outcome, data = await session.run(b"FETCH 1:3 BODY[]")
    assert (outcome.status, outcome.code) == (b"NO", b"UNAVAILABLE")
    assert re.findall(rb"\* (\d) FETCH", data) == [b"1", b"3"]
    # and it is not \Seen, of which the session will be told as it was \Seen for a moment
    assert session.mail.stores == [((1, 2, 3), FlagChange.ADD), ((2,), FlagChange.REMOVE)]
    assert messages[1].flags is SystemFlag.NONE
    assert [seq for seq, _state in session.view.sync(expunge_allowed=True).changed] == [2]


async def test_a_damaged_body_is_told_as_corruption() -> None:
    outcome, data = await one(error=Corrupt("hash differs")).run(b"FETCH 1 BODY.PEEK[]")
    assert (outcome.status, outcome.code, data) == (b"NO", b"CORRUPTION", b"")


@pytest.mark.parametrize("line", [b"FETCH 1:3 (UID ENVELOPE)", b"FETCH 1:3 (UID ENVELOPE BODY.PEEK[TEXT])"])
async def test_a_damaged_row_is_left_out_of_a_listing(line: bytes) -> None:
    messages = [Stored(n, MESSAGE + b"%d" % n) for n in range(1, 4)]
    messages[1].described = replace(messages[1].described, envelope=b"\xc1")
    outcome, data = await select(messages).run(line)
    assert (outcome.status, outcome.code) == (b"NO", b"CORRUPTION")
    assert re.findall(rb"\* (\d) FETCH \(UID (\d) ENVELOPE", data) == [(b"1", b"1"), (b"3", b"3")]


async def test_a_header_needs_no_body() -> None:
    session = one(error=Unavailable("object store away"))
    line = b"FETCH 1 (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (Subject)])"
    assert b"afternoon meeting" in await session.text(line)
    assert session.bodies.opened == []


async def test_messages_expunged_by_others_are_left_out() -> None:
    session = select([Stored(n, MESSAGE + b"%d" % n) for n in range(1, 4)])
    session.view.shared.apply_own((), (Uid(2),), session.view.shared.version, None)  # type: ignore[arg-type]
    outcome, data = await session.run(b"FETCH 1:3 (UID BODY.PEEK[TEXT]<0.1>)")
    assert (outcome.status, outcome.code) == (b"OK", b"EXPUNGEISSUED")
    assert re.findall(rb"\* (\d) FETCH \(UID (\d)", data) == [(b"1", b"1"), (b"3", b"3")]
    outcome, data = await session.run(b"FETCH 1:3 FLAGS")
    assert (outcome.status, outcome.code) == (b"OK", b"EXPUNGEISSUED")
    assert data == b"* 1 FETCH (FLAGS ())\r\n* 3 FETCH (FLAGS ())\r\n"
    outcome, _ = await session.run(b"UID FETCH 1:3 FLAGS")
    assert (outcome.status, outcome.code) == (b"OK", None)


async def test_a_row_that_is_gone_from_the_store_first_is_left_out() -> None:
    session = select([Stored(1, MESSAGE), Stored(2, MESSAGE + b"2")])
    del session.mail.by_uid[1]
    outcome, data = await session.run(b"FETCH 1:2 RFC822.HEADER")
    assert (outcome.status, outcome.code) == (b"OK", b"EXPUNGEISSUED")
    assert data.startswith(b"* 2 FETCH ")


async def test_a_body_that_breaks_off_within_its_literal_cuts_the_connection() -> None:
    session = one(MESSAGE + b"x" * 2_000_000)
    session.bodies.breaks_after = 1_500_000
    with pytest.raises(PeerGone):
        await session.run(b"FETCH 1 BODY.PEEK[]")


# --- CONDSTORE ------------------------------------------------------------------------------------


async def test_changedsince_selects_and_implies_modseq() -> None:
    session = select([Stored(1, MESSAGE, modseq=5), Stored(2, MESSAGE + b"2", modseq=9)])
    assert await session.text(b"FETCH 1:* (FLAGS) (CHANGEDSINCE 5)") == b"* 2 FETCH (MODSEQ (9) FLAGS ())\r\n"
    assert session.enabled == {b"CONDSTORE"}


# --- budgets --------------------------------------------------------------------------------------


async def test_what_the_view_knows_costs_no_read() -> None:
    session = select([Stored(n, MESSAGE) for n in range(1, 3001)])
    answer = await session.text(b"FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ)")
    assert answer.count(b"\r\n") == 3000
    assert session.mail.reads == []


async def test_rows_cost_one_read_per_thousand_and_headers_no_body() -> None:
    session = select([Stored(n, MESSAGE) for n in range(1, 2501)])
    line = b"FETCH 1:* (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (To)])"
    assert (await session.text(line)).count(b" FETCH (") == 2500
    wanted = Wanted.HEADER | Wanted.ENVELOPE | Wanted.STRUCTURE
    assert session.mail.reads == [(1000, wanted), (1000, wanted), (500, wanted)]
    assert session.bodies.opened == []


async def test_bodies_cost_one_read_per_thousand_one_store_and_are_asked_for_ahead() -> None:
    session = select([Stored(n, MESSAGE + b"%d" % n) for n in range(1, 41)])
    await session.text(b"FETCH 1:* BODY[]")
    assert session.mail.reads == [(40, Wanted.REFERENCE)]
    assert len(session.mail.stores) == 1
    assert session.bodies.opened == list(range(1, 41))
    assert set(session.bodies.hinted) == set(range(1, 41))


async def test_large_bodies_are_streamed_with_bounded_writes() -> None:
    content = HEADER + b"0123456789abcdef" * 300_000
    session = one(content)
    answer = await session.text(b"FETCH 1 BODY.PEEK[]")
    assert answer == b"* 1 FETCH (BODY[] %b)\r\n" % lit(content)
    assert max(session.bodies.served) <= 100_000
    assert session.connection.most_unflushed < 400_000


async def test_large_sections_and_partials_are_streamed_from_the_right_octet() -> None:
    session = one(MULTI + b"0123456789abcdef" * 200_000, prefix=PREFIX, flags=SystemFlag.SEEN)
    whole = PREFIX + MULTI + b"0123456789abcdef" * 200_000
    start, count = len(PREFIX) - 5, 2_000_000
    answer = await session.text(b"FETCH 1 BODY[]<%d.%d>" % (start, count))
    piece = whole[start : start + count]
    assert answer == b"* 1 FETCH (BODY[]<%d> %b)\r\n" % (start, lit(piece))
    text = whole[len(PREFIX + MULTI_HEADER) :]
    assert await session.text(b"FETCH 1 BODY[TEXT]") == b"* 1 FETCH (BODY[TEXT] %b)\r\n" % lit(text)
    answer = await session.text(b"FETCH 1 BINARY[]<7.2000000>")
    assert answer == b"* 1 FETCH (BINARY[]<7> ~%b)\r\n" % lit(whole[7:2_000_007])
    assert max(session.bodies.served) <= 100_000


async def test_large_headers_asked_for_often_are_rendered_in_bounded_pieces() -> None:
    header = b"Subject: x\r\nX-Long: " + b"x" * 50_000 + b"\r\n\r\n"
    session = select([Stored(n, header + b"%d" % n) for n in range(1, 101)])
    items = b" ".join(b"BODY.PEEK[HEADER]<%d.99999>" % at for at in range(10))
    answer = await session.text(b"FETCH 1:* (UID %b)" % items)
    assert re.findall(rb"\* (\d+) FETCH", answer) == [b"%d" % n for n in range(1, 101)]
    assert session.connection.largest_write < 8_000_000
    assert len(session.mail.reads) == 1


async def test_many_pieces_of_one_message_in_one_command_are_held_within_bounds() -> None:
    session = one(HEADER + b"0123456789abcdef" * 60_000)
    items = b" ".join(b"BODY.PEEK[]<%d.900000>" % at for at in range(40))
    answer = await session.text(b"FETCH 1 (%b)" % items)
    assert answer.count(b"{900000}\r\n") == 40
    assert session.connection.largest_write < 1_400_000


async def test_partial_reads_of_one_message_reuse_its_row_and_body() -> None:
    session = one(MESSAGE * 50)
    whole = b""
    for at in range(0, len(MESSAGE) * 50, 1000):
        answer = await session.text(b"UID FETCH 5 BODY.PEEK[]<%d.1000>" % at)
        whole += answer.split(b"}\r\n", 1)[1].removesuffix(b")\r\n")
    assert whole == MESSAGE * 50
    assert len(session.mail.reads) == 1
    assert len(session.bodies.opened) == 1
    assert session.last_read is None  # it came to the end


async def test_an_oversized_header_block_is_cut_from_the_body() -> None:
    header = HEADER.removesuffix(b"\r\n") + b"X-Long: " + b"x" * (1024 * 1024) + b"\r\nX-Last: y\r\n\r\n"
    session = one(header + TEXT, prefix=PREFIX)
    assert await session.text(b"FETCH 1 BODY.PEEK[HEADER]") == (
        b"* 1 FETCH (BODY[HEADER] %b)\r\n" % lit(PREFIX + header)
    )
    answer = await session.text(b"FETCH 1 BODY.PEEK[HEADER.FIELDS (X-Last Delivered-To)]")
    assert lit(b"Delivered-To: joe@example.test\r\nX-Last: y\r\n\r\n") in answer


async def test_sequence_number_that_is_not_there_is_bad_and_uid_is_not() -> None:
    session = one()
    assert await session.is_bad(b"FETCH 2 FLAGS")
    assert await session.text(b"UID FETCH 99 FLAGS") == b""
