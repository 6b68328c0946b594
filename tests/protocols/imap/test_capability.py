"""The capability line: computed from what runs, what is possible now, and what the operator hides."""

from __future__ import annotations

import re

from protocols.imap.capability import Circumstances, capabilities, is_hidden
from protocols.imap.commands import COMMANDS
from protocols.imap.presentation import ClientFilter, Presentation, capability_names, id_fields
from protocols.imap.registry import CommandTable, State
from protocols.ports import Peer
from tests.support.imap import ImapLab
from tests.support.wire import Wire


def line(*, without: str = "", hidden: frozenset[bytes] = frozenset()) -> tuple[bytes, ...]:
    table = CommandTable(command for command in COMMANDS if command.name.decode() != without)
    return capabilities(table, Circumstances(State.AUTHENTICATED, False, True, 1000, hidden))


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


def test_what_belongs_to_the_base_protocol_is_never_refused() -> None:
    hidden = frozenset(name.upper() for command in COMMANDS for name in command.capabilities)
    refused = {command.name for command in COMMANDS if is_hidden(command, hidden)}
    assert refused == {b"STARTTLS", b"IDLE", b"ENABLE", b"ID", b"NAMESPACE", b"UNSELECT", b"MOVE"}
