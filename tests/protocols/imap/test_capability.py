"""The capability line: computed from what runs, what is possible now, and what the operator hides."""

from __future__ import annotations

import re

from protocols.imap.capability import Circumstances, capabilities
from protocols.imap.commands import COMMANDS
from protocols.imap.presentation import ClientFilter, Presentation, capability_names, id_fields
from protocols.imap.registry import CommandTable, State
from tests.support.imap import ImapLab


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
