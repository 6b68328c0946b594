"""Annotations over IMAP: every form of asking and setting, limits, what goes with a mailbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.annotations import ADMIN, COMMENT
from protocols.imap.grammar import Cursor, ParseError
from protocols.imap.metadataargs import Asked, answer, has_options, parse_entries, parse_options
from protocols.imap.presentation import Presentation
from storage.annotations import AnnotationLimits
from storage.errors import Unavailable
from tests.support.imap import ImapLab
from tests.support.wire import Wire

LIMITS = AnnotationLimits(entry_bytes=100, mailbox_entries=3, server_entries=2, total_bytes=250)


async def logged_in(**options: object) -> tuple[ImapLab, Wire]:
    lab = ImapLab()
    lab.annotate(limits=LIMITS, **options)
    return lab, await lab.log_in()


# --- arguments ---


def read(text: bytes) -> Asked:
    cursor, options = Cursor(text), Asked({})
    if has_options(cursor):
        options = parse_options(cursor)
        cursor.space()
    asked = parse_entries(cursor, options)
    cursor.end()
    return asked


def test_asking() -> None:
    assert read(b"/private/A") == Asked({"/private/a": "/private/A"})
    assert read(b'("/private/a b" {9+}\r\n/shared/b)').entries == {
        "/private/a b": "/private/a b",
        "/shared/b": "/shared/b",
    }
    assert read(b"(maxsize 10 depth 1) /shared/b") == Asked({"/shared/b": "/shared/b"}, 1, 10)
    assert read(b"(DEPTH infinity) (/private /shared)").entries == {
        "/private": "/private",
        "/shared": "/shared",
    }


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"()", b"(/private/a", b"/private", b"comment", b"/private/a/", b"(DEPTH 0) /private"),
        *(b"(DEPTH 2) /private/a", b"(DEPTH) /private/a", b"(MAXSIZE x) /private/a", b"(OTHER 1) /private/a"),
        *(b"(MAXSIZE 1 DEPTH) /private/a", b"(MAXSIZE 1", b"/private/%", b'"/private/*"', b"/private/a  "),
    ],
)
def test_asking_that_is_refused(text: bytes) -> None:
    with pytest.raises(ParseError):
        read(text)


THERE = {"/private/a": b"1", "/private/a/b": b"22", "/private/a/b/c": b"333", "/private/ab": b"4"}


@pytest.mark.parametrize(
    ("depth", "told"),
    [
        (0, {"/private/a": b"1", "/private/x": None}),
        (1, {"/private/a": b"1", "/private/a/b": b"22"}),
        (None, {"/private/a": b"1", "/private/a/b": b"22", "/private/a/b/c": b"333"}),
    ],
)
def test_depth(depth: int | None, told: dict[str, bytes | None]) -> None:
    asked = Asked({"/private/a": "/private/a", "/private/x": "/private/x"}, depth)
    assert dict(answer(asked, THERE).items) == told


@given(st.integers(0, 4), st.sampled_from([0, 1, None]))
def test_largest_left_out_is_told(max_bytes: int, depth: int | None) -> None:
    asked = Asked({"/private/a": "/private/a", "/private/a/b": "/private/a/b"}, depth)
    whole = dict(answer(asked, THERE).items)
    cut = answer(Asked(asked.entries, depth, max_bytes), THERE)
    missing = [len(whole[name] or b"") for name in whole.keys() - dict(cut.items).keys()]
    assert cut.longest == max(missing, default=0)
    assert all(len(value or b"") <= max_bytes for _, value in cut.items)
    assert all(size > max_bytes for size in missing)


# --- sessions ---


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b'"plain"', b'"plain"'),
        (b'""', b'""'),
        (b"NIL", b"NIL"),
        (b'"NIL"', b'"NIL"'),
        (b"{4+}\r\na\r\nb", b"{4}\r\na\r\nb"),
        (b"{3+}\r\n\xc3\xbc!", b"{3}\r\n\xc3\xbc!"),
        (b"~{3+}\r\na\0b", b"~{3}\r\na\0b"),
        (b"~{1+}\r\nx", b'"x"'),
    ],
)
async def test_values_of_any_octets(sent: bytes, told: bytes) -> None:
    _, wire = await logged_in()
    assert b"1 OK" in await wire.send(b"1 SETMETADATA INBOX (/private/v %b)\r\n" % sent)
    answer = await wire.send(b"2 GETMETADATA INBOX /private/v\r\n")
    assert answer == b'* METADATA "INBOX" (/private/v %b)\r\n2 OK Done\r\n' % told


async def test_entry_name_that_is_no_atom_comes_quoted() -> None:
    _, wire = await logged_in()
    await wire.send(b'1 SETMETADATA INBOX ("/private/a (b) \\"c\\"" "x")\r\n')
    answer = await wire.send(b"2 GETMETADATA (DEPTH infinity) INBOX /private\r\n")
    assert b'("/private/a (b) \\"c\\"" "x")\r\n' in answer


async def test_limits_have_their_codes_and_change_nothing() -> None:
    _, wire = await logged_in()
    assert b"1 OK" in await wire.send(b'1 SETMETADATA INBOX (/private/a "1")\r\n')
    large = b"x" * 101
    answer = await wire.send(b'2 SETMETADATA INBOX (/private/a NIL /private/b "%b")\r\n' % large)
    assert answer.startswith(b"2 NO [METADATA MAXSIZE 100] ")
    many = b" ".join(b'/private/%d "x"' % n for n in range(3))
    assert (await wire.send(b"3 SETMETADATA INBOX (%b)\r\n" % many)).startswith(b"3 NO [METADATA TOOMANY] ")
    for n in (1, 2):
        await wire.send(b'4 SETMETADATA INBOX (/private/b%d "%b")\r\n' % (n, b"x" * 100))
    answer = await wire.send(b'5 SETMETADATA "" (/private/a "%b")\r\n' % (b"x" * 50))
    assert answer.startswith(b"5 NO [METADATA TOOMANY] ")
    assert await wire.send(b"6 GETMETADATA INBOX /private/a\r\n") == (
        b'* METADATA "INBOX" (/private/a "1")\r\n6 OK Done\r\n'
    )


async def test_what_the_site_says_is_read_and_not_changed() -> None:
    _, wire = await logged_in(site={ADMIN: b"mailto:root@example.org", COMMENT: b"Be nice"})
    answer = await wire.send(b'1 GETMETADATA (DEPTH infinity) "" /shared\r\n')
    assert b'(/shared/admin "mailto:root@example.org" /shared/comment "Be nice")' in answer
    for entry in (b"admin", b"comment"):
        answer = await wire.send(b'2 SETMETADATA "" (/private/x "1" /shared/%b NIL)\r\n' % entry)
        assert answer.startswith(b"2 NO [CANNOT]")
    assert b"/private/x NIL" in await wire.send(b'3 GETMETADATA "" /private/x\r\n')
    # of a mailbox they are the user's
    assert b"4 OK" in await wire.send(b'4 SETMETADATA INBOX (/shared/comment "mine" /shared/admin "me")\r\n')


async def test_rename_takes_them_along_and_delete_drops_them() -> None:
    _, wire = await logged_in()
    await wire.send(b'1 CREATE one\r\n2 SETMETADATA one (/private/comment "c")\r\n3 RENAME one two\r\n')
    assert b'"two" (/private/comment "c")' in await wire.send(b"4 GETMETADATA two /private/comment\r\n")
    await wire.send(b"5 DELETE two\r\n6 CREATE two\r\n")
    assert b'"two" (/private/comment NIL)' in await wire.send(b"7 GETMETADATA two /private/comment\r\n")


async def test_names_of_mailboxes_are_encoded_as_the_client_speaks() -> None:
    _, wire = await logged_in()
    await wire.send(b'1 CREATE gr&APw-n\r\n2 SETMETADATA gr&APw-n (/private/comment "c")\r\n')
    assert b'METADATA "gr&APw-n" (' in await wire.send(b"3 GETMETADATA gr&APw-n /private/comment\r\n")
    await wire.send(b"4 ENABLE UTF8=ACCEPT\r\n")
    answer = await wire.send(b'5 GETMETADATA "gr\xc3\xbcn" /private/comment\r\n')
    assert b'METADATA "gr\xc3\xbcn" (/private/comment "c")' in answer


async def test_list_tells_them_in_one_read() -> None:
    lab, wire = await logged_in()
    await wire.send(
        b'1 CREATE a/b\r\n2 DELETE a\r\n3 SETMETADATA a/b (/private/c "1234" /private/c/d "2")\r\n'
    )
    lab.calls.clear()
    answer = await wire.send(b'4 LIST "" (a a/b Trash) RETURN (METADATA (/private/c))\r\n')
    assert lab.calls == ["list_mailboxes", "named"]
    assert answer.split(b"\r\n")[:-2] == [
        b'* LIST (\\HasNoChildren \\Trash) "/" "Trash"',
        b'* METADATA "Trash" (/private/c NIL)',
        b'* LIST (\\NonExistent \\Noselect \\HasChildren) "/" "a"',
        b'* LIST (\\HasNoChildren) "/" "a/b"',
        b'* METADATA "a/b" (/private/c "1234")',
    ]
    ask = b'5 LIST "" a/b RETURN (METADATA (DEPTH 1 MAXSIZE 3) (/private/c) CHILDREN)\r\n'
    assert (await wire.send(ask)).split(b"\r\n") == [
        b'* LIST (\\HasNoChildren) "/" "a/b"',
        b'* METADATA "a/b" (/private/c/d "2")',
        b"5 OK [METADATA LONGENTRIES 4] Done",
        b"",
    ]
    lab.calls.clear()
    await wire.send(b'6 LIST "" *\r\n')
    assert lab.calls == ["list_mailboxes"]


async def test_database_that_is_away_is_told() -> None:
    lab, wire = await logged_in()
    lab.watched_annotations.faults["at"] = [Unavailable("away")]
    lab.watched_annotations.faults["change"] = [Unavailable("away")]
    assert b"1 NO [UNAVAILABLE]" in await wire.send(b"1 GETMETADATA INBOX /private/a\r\n")
    assert b"2 NO [UNAVAILABLE]" in await wire.send(b'2 SETMETADATA INBOX (/private/a "x")\r\n')
    assert b"3 OK" in await wire.send(b"3 GETMETADATA INBOX /private/a\r\n")


async def test_without_a_store_nothing_is_announced_or_taken() -> None:
    lab = ImapLab()
    lab.services.annotations = None
    wire = await lab.log_in()
    assert b"METADATA" not in await wire.send(b"1 CAPABILITY\r\n")
    assert b"2 BAD" in await wire.send(b"2 GETMETADATA INBOX /private/a\r\n")
    assert b"3 BAD" in await wire.send(b'3 LIST "" * RETURN (METADATA (/private/a))\r\n')


async def test_server_entries_may_be_hidden_alone() -> None:
    lab = ImapLab(options={"presentation": Presentation(hidden=frozenset({b"METADATA-SERVER"}))})
    wire = await lab.log_in()
    assert b"1 OK" in await wire.send(b"1 GETMETADATA INBOX /private/a\r\n")
    assert b"2 BAD" in await wire.send(b'2 GETMETADATA "" /private/a\r\n')
