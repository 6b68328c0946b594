"""Foreign words on an operator's terminal: what clients and senders choose is shown, never obeyed."""

from __future__ import annotations

import json
import re

import pytest

from node.commands import access, blocks, output

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31mann\r\n192.0.2.9  operator\x7f"
ORDERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def test_table_keeps_foreign_words_in_their_cell() -> None:
    lines = output.table(("USER", "SINCE"), [(EVIL, 1)]).split("\n")
    assert len(lines) == 2
    assert not ORDERS.search(lines[1])
    assert lines[1].split()[-2:] == ["operator�", "1"]


def test_fields_keep_foreign_words_in_their_line() -> None:
    assert output.fields({"a": EVIL, "b": 2}).count("\n") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_no_answer_commands_the_terminal(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    access.Access(None, as_json=as_json).answer({"user": EVIL}, f"one\n{EVIL}")
    told = capsys.readouterr().out
    assert not ORDERS.search(told)
    if as_json:
        assert json.loads(told) == {"user": EVIL}  # nothing is lost for programs
    else:
        assert told.startswith("one\n")


def test_header_of_a_message_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    access.Access(None, as_json=False).answer({}, "From: a@b.example\r\nReceived: x\r\n\tby y")
    assert capsys.readouterr().out == "From: a@b.example\nReceived: x\n\tby y\n"


def test_why_an_address_is_blocked_is_one_line_for_each_reason() -> None:
    words = [f"The last user tried was {EVIL}.", "It was blocked before."]
    seen = {"words": words, "is_refused_at_connect": False, "hint": ""}
    [told] = blocks._paragraphs({"address": "192.0.2.7", "blocks": [], "servers": {"imap": seen}})
    assert told.count("\n") == 2
