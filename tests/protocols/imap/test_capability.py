"""The capability line: computed from what runs, what is possible now, and what the operator hides."""

from __future__ import annotations

import re

import pytest

from protocols.imap.capability import Circumstances, capabilities
from protocols.imap.commands import COMMANDS
from protocols.imap.governed import CAPABILITIES, SHOWS_ONLY
from protocols.imap.presentation import ClientFilter, Presentation, capability_names, id_fields
from protocols.imap.registry import CommandTable, State
from protocols.ports import Peer
from tests.support.imap import ImapLab
from tests.support.wire import Wire


def line(*, without: str = "", hidden: frozenset[bytes] = frozenset()) -> tuple[bytes, ...]:
    table = CommandTable(command for command in COMMANDS if command.name.decode() != without)
    return capabilities(
        table, Circumstances(State.AUTHENTICATED, False, True, 1000, hidden, sieve_url="sieve://h:1")
    )


def test_rev2_is_announced_only_with_everything_it_folds_in() -> None:
    assert line()[:2] == (b"IMAP4rev2", b"IMAP4rev1")
    for name in ("MOVE", "SEARCH", "FETCH", "IDLE", "LIST", "NAMESPACE", "UNSELECT", "EXPUNGE", "ENABLE"):
        assert b"IMAP4rev2" not in line(without=name), name


def test_a_command_that_is_not_registered_is_not_announced() -> None:
    for command in COMMANDS:
        for name in command.capabilities:
            assert name not in line(without=command.name.decode())


def test_hiding_a_part_of_rev2_hides_rev2() -> None:
    names = line(hidden=frozenset({b"IDLE"}))
    assert b"IDLE" not in names
    assert b"IMAP4rev2" not in names


async def test_client_filters_apply_after_id() -> None:
    presentation = Presentation(
        hidden=capability_names(["esearch"]),
        additional=(b"X-SHOWN",),
        filters=(
            ClientFilter(re.compile("^iOS"), re.compile(r"^1\."), frozenset({b"IDLE"}), "does not end IDLE"),
            ClientFilter(None, None, frozenset({b"MOVE"})),
        ),
        identity=id_fields({"name": "Mail", "version": ""}),
    )
    lab = ImapLab(options={"presentation": presentation})
    wire = await lab.connect()
    before = await wire.send(b'1 ID ("name" "iOS Mail" "version" "2.0")\r\n2 CAPABILITY\r\n')
    assert b'* ID ("name" "Mail")\r\n' in before
    assert b" IDLE" in before
    assert b" MOVE" in before
    assert b" X-SHOWN" in before
    assert b"ESEARCH" not in before
    after = await wire.send(b'1 ID ("version" "1.2" "name" "iOS Mail")\r\n2 CAPABILITY\r\n')
    assert b" IDLE" not in after


async def test_what_is_hidden_cannot_be_enabled() -> None:
    lab = ImapLab(options={"presentation": Presentation(hidden=frozenset({b"CONDSTORE"}))})
    wire = await lab.log_in()
    assert await wire.send(b"1 ENABLE CONDSTORE\r\n") == b"* ENABLED\r\n1 OK Enabled\r\n"


FINGERPRINT = "t13d1516h2_8daaf6152771_e5627efa2ab1"
FILTERED = Presentation(
    filters=(
        ClientFilter(
            re.compile("^Old"), None, frozenset({b"IDLE", b"UNSELECT"}), "", (re.compile("^t13d1516h2_"),)
        ),
    )
)
LOGIN = b"l LOGIN ann@example.org secret\r\n"


async def test_a_filtered_fingerprint_counts_before_the_greeting_and_after_login() -> None:
    lab = ImapLab(options={"presentation": FILTERED})
    wire = Wire(lab.factory, has_tls=True, told=Peer("192.0.2.7", 40000, ja4=FINGERPRINT))
    said = await wire.greeting(), await wire.send(b"1 CAPABILITY\r\n"), await wire.send(LOGIN)
    for line in said:
        assert b"CAPABILITY IMAP4rev1 " in line
        assert b"IDLE" not in line
        assert b" ENABLE " in line
    other = Wire(lab.factory, has_tls=True, told=Peer("192.0.2.7", 40000, ja4=FINGERPRINT[1:]))
    assert b"CAPABILITY IMAP4rev2 IMAP4rev1 " in await other.greeting()


async def test_commands_of_filtered_capabilities_are_refused_and_others_are_not() -> None:
    lab = ImapLab(options={"presentation": FILTERED})
    wire = await lab.log_in("INBOX")
    assert (await wire.send(b"1 IDLE\r\nDONE\r\n")).startswith(b"+")
    assert b"2 OK" in await wire.send(b'2 ID ("name" "Old Mail")\r\n')
    assert (await wire.send(b"3 IDLE\r\n")).startswith(b"3 BAD")
    assert (await wire.send(b"4 UNSELECT\r\n")).startswith(b"4 BAD")
    for command in (b"FETCH 1:* FLAGS", b"MOVE 1:* INBOX", b"STATUS INBOX (SIZE)", b"LOGOUT"):
        assert b"5 BAD" not in await wire.send(b"5 %b\r\n" % command), command


async def test_a_hidden_mechanism_is_refused() -> None:
    lab = ImapLab(options={"presentation": Presentation(hidden=frozenset({b"AUTH=PLAIN"}))})
    wire = await lab.connect()
    assert b"AUTH=PLAIN" not in await wire.send(b"1 CAPABILITY\r\n")
    assert b"2 NO" in await wire.send(b"2 AUTHENTICATE PLAIN AGFubkBleGFtcGxlLm9yZwBzZWNyZXQ=\r\n")


ANNOUNCED = {name.upper() for name in line()} | {
    name.upper()
    for command in COMMANDS
    for name in command.capabilities
    if not name.startswith(b"AUTH=")  # AUTHENTICATE itself
}
# Every form of every command that belongs to a capability, after SELECT with a message or two.
FORMS = {
    b"APPENDLIMIT": [b"STATUS INBOX (APPENDLIMIT)", b'LIST "" * RETURN (STATUS (APPENDLIMIT))'],
    b"BINARY": [
        b"FETCH 1 BINARY[]",
        b"FETCH 1 (FLAGS BINARY.PEEK[1])",
        b"UID FETCH 1 BINARY.SIZE[1]",
        b"APPEND INBOX ~{3}",
        b"APPEND INBOX ~{3+}\r\nabc",
    ],
    b"CHILDREN": [b'LIST "" * RETURN (CHILDREN)'],
    b"CONDSTORE": [
        b"SELECT INBOX (CONDSTORE)",
        b"EXAMINE INBOX (CONDSTORE)",
        b"FETCH 1 MODSEQ",
        b"FETCH 1:* (FLAGS) (CHANGEDSINCE 1)",
        b"UID FETCH 1:* FLAGS (CHANGEDSINCE 1)",
        b"STORE 1 (UNCHANGEDSINCE 1) +FLAGS (x)",
        b"UID STORE 1 (UNCHANGEDSINCE 1) +FLAGS.SILENT (x)",
        b"SEARCH MODSEQ 1",
        b"UID SEARCH OR SEEN NOT (UNSEEN MODSEQ 1)",
        b"STATUS INBOX (HIGHESTMODSEQ)",
        b'LIST "" * RETURN (STATUS (MESSAGES HIGHESTMODSEQ))',
    ],
    b"CREATE-SPECIAL-USE": [b"CREATE Drafts2 (USE (\\Drafts))", b"CREATE X (USE (\\Unheard))"],
    b"ENABLE": [b"ENABLE CONDSTORE"],
    b"ESEARCH": [b"SEARCH RETURN () ALL", b"SEARCH RETURN (COUNT) SEEN", b"UID SEARCH RETURN (MIN MAX) ALL"],
    b"ID": [b"ID NIL", b'ID ("name" "x")'],
    b"IDLE": [b"IDLE"],
    b"LIST-EXTENDED": [
        b'LIST (SUBSCRIBED) "" *',
        b'LIST "" (INBOX Sent)',
        b'LIST "" * RETURN (SUBSCRIBED)',
        b'LIST (SUBSCRIBED RECURSIVEMATCH) "" *',
    ],
    b"LIST-METADATA": [b'LIST "" * RETURN (METADATA (/private/comment))'],
    b"LIST-STATUS": [b'LIST "" * RETURN (STATUS (MESSAGES))'],
    b"LITERAL+": [b"STATUS {5+}\r\nINBOX (MESSAGES)", b"APPEND INBOX {3+}\r\nabc", b"NOOP {3+}\r\nabc"],
    b"METADATA": [
        b"GETMETADATA INBOX /private/comment",
        b"GETMETADATA (DEPTH 1) INBOX (/shared/comment)",
        b'SETMETADATA INBOX (/private/comment "x")',
        b'LIST "" * RETURN (METADATA (DEPTH 1) /private/comment)',
    ],
    b"METADATA-SERVER": [b'GETMETADATA "" /private/comment', b'SETMETADATA "" (/private/comment NIL)'],
    b"MOVE": [b"MOVE 1 Trash", b"UID MOVE 1 Trash"],
    b"NAMESPACE": [b"NAMESPACE"],
    b"SEARCHRES": [
        b"SEARCH RETURN (SAVE) ALL",
        b"UID SEARCH RETURN (COUNT SAVE) ALL",
        b"SEARCH $",
        b"SEARCH NOT UID $",
        b"FETCH $ FLAGS",
        b"UID STORE $ +FLAGS (x)",
        b"COPY $ Trash",
        b"UID MOVE $ Trash",
        b"UID EXPUNGE $",
    ],
    b"SPECIAL-USE": [b'LIST (SPECIAL-USE) "" *', b'LIST "" * RETURN (SPECIAL-USE)'],
    b"STATUS=SIZE": [b"STATUS INBOX (SIZE)", b'LIST "" * RETURN (STATUS (SIZE))'],
    b"UIDPLUS": [b"UID EXPUNGE 1"],
    b"UNSELECT": [b"UNSELECT"],
    b"UTF8=ACCEPT": [b"APPEND INBOX UTF8 (~{3}"],
    b"WITHIN": [b"SEARCH YOUNGER 10", b"UID SEARCH (SEEN NOT OLDER 10)"],
}
# What every client may use, whatever extension has added to it since (RFC 3501 §6).
BASIC = [
    *(b"NOOP", b"CHECK", b"FETCH 1:* (FLAGS UID BODY.PEEK[HEADER] RFC822.SIZE)", b"STORE 1 +FLAGS (\\Seen)"),
    *(b"SEARCH ALL", b"UID SEARCH SINCE 1-Jan-2020", b"COPY 1 Trash", b"EXPUNGE", b"SUBSCRIBE INBOX"),
    *(b'LIST "" *', b'LSUB "" *', b"STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)", b"CREATE Fresh"),
    *(b"RENAME Fresh Stale", b"DELETE Stale", b"EXAMINE INBOX", b"SELECT INBOX", b"CLOSE", b"CAPABILITY"),
]


def hiding(*names: bytes) -> ImapLab:
    return ImapLab(options={"presentation": Presentation(hidden=frozenset(names))})


async def with_a_message(lab: ImapLab) -> Wire:
    wire = await lab.log_in("INBOX")
    await wire.send(b"a APPEND INBOX {9}\r\n")
    assert b"a OK" in await wire.send(b"A: b\r\n\r\nc\r\n")
    return wire


def test_every_announced_capability_says_what_it_governs() -> None:
    named = {
        name.partition(b"=")[0] if name.startswith((b"APPENDLIMIT=", b"IMAPSIEVE=")) else name
        for name in ANNOUNCED
    }
    assert named - {b"STARTTLS", b"SASL-IR"} == {*FORMS, *SHOWS_ONLY} - {b"LOGINDISABLED"}
    assert {*FORMS, b"STARTTLS", b"SASL-IR"} - {b"LITERAL+"} == CAPABILITIES


@pytest.mark.parametrize("name", sorted(FORMS), ids=bytes.decode)
async def test_a_hidden_capability_is_refused_in_all_its_forms(name: bytes) -> None:
    wire = await with_a_message(hiding(name))
    shown = await wire.send(b"c CAPABILITY\r\n")
    assert name not in shown.replace(b"=", b" ").split() or b"=" in name
    assert b"IMAP4rev2" not in shown or name in NOT_OF_REV2
    for form in FORMS[name]:
        said = await wire.send(b"x %b\r\n" % form)
        assert said.startswith(b"x BAD") or b"\r\nx BAD" in said, (form, said)
    for command in BASIC:
        said = await wire.send(b"y %b\r\n" % command)
        assert b"y OK" in said, (command, said)


NOT_OF_REV2 = {
    *(b"APPENDLIMIT", b"CONDSTORE", b"CREATE-SPECIAL-USE", b"ID", b"UTF8=ACCEPT", b"WITHIN"),
    *(b"LIST-METADATA", b"METADATA", b"METADATA-SERVER"),
}


@pytest.mark.parametrize("name", sorted(FORMS), ids=bytes.decode)
async def test_what_is_not_hidden_is_not_refused(name: bytes) -> None:
    wire = await with_a_message(hiding(b"XUNHEARD"))
    for form in FORMS[name]:
        said = await wire.send(b"x %b\r\n" % form)
        assert b"not available" not in said, (form, said)
        if said.startswith(b"+"):
            await wire.send(b"DONE\r\n" if name == b"IDLE" else b"abc)\r\n")
        await wire.send(b"z SELECT INBOX\r\n")


async def test_literals_that_were_refused_are_read_over() -> None:
    wire = await with_a_message(hiding(b"LITERAL+"))
    said = await wire.send(b"1 STATUS {5+}\r\nINBOX (MESSAGES)\r\n2 NOOP\r\n3 STATUS {5}\r\n")
    assert said.startswith(b"1 BAD")
    assert b"2 OK" in said
    assert said.endswith(b"\r\n")
    assert b"\r\n+ " in said
    assert b"3 OK" in await wire.send(b"INBOX (MESSAGES)\r\n")
    said = await wire.send(b"4 APPEND INBOX {8+}\r\n9 LOGOUT\r\n5 NOOP\r\n")
    assert b"9 " not in said
    assert b"4 BAD" in said
    assert b"5 OK" in said


async def test_no_initial_response_without_sasl_ir() -> None:
    wire = await hiding(b"SASL-IR").connect()
    response = b"AGFubkBleGFtcGxlLm9yZwBzZWNyZXQ="
    assert b"1 BAD" in await wire.send(b"1 AUTHENTICATE PLAIN %b\r\n" % response)
    assert await wire.send(b"2 AUTHENTICATE PLAIN\r\n") == b"+ \r\n"
    assert b"2 OK" in await wire.send(response + b"\r\n")


async def test_what_comes_with_a_hidden_capability_is_not_said_either() -> None:
    wire = await with_a_message(hiding(b"UIDPLUS", b"CONDSTORE", b"SPECIAL-USE", b"CHILDREN"))
    assert b"HIGHESTMODSEQ" not in await wire.send(b"1 SELECT INBOX\r\n")
    assert b"COPYUID" not in await wire.send(b"2 COPY 1 Trash\r\n")
    await wire.send(b"3 APPEND INBOX {9}\r\n")
    assert b"APPENDUID" not in await wire.send(b"A: b\r\n\r\nc\r\n")
    moved = await wire.send(b"4 MOVE 1 Trash\r\n")
    assert b"4 OK" in moved
    assert b"COPYUID" not in moved
    listed = await wire.send(b'5 LIST "" *\r\n')
    assert b"Trash" in listed
    assert b"\\Trash" not in listed
    assert b"Children" not in listed
    wire = await with_a_message(hiding())
    assert b"HIGHESTMODSEQ" in await wire.send(b"1 SELECT INBOX\r\n")
    assert b"COPYUID" in await wire.send(b"2 COPY 1 Trash\r\n")
    assert b"\\Trash" in await wire.send(b'5 LIST "" *\r\n')
