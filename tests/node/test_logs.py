"""Lines for people and for machines: same fields, no forged lines, no secrets."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.logs import ConsoleFormatter, JsonFormatter
from tests.support.imap import ImapLab
from tests.support.wire import Wire


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("sora.imap", logging.INFO, "x.py", 1, message, args, None)
    made.__dict__["fields"] = fields
    return made


def test_console() -> None:
    line = ConsoleFormatter().format(
        record("logged in", session="4f1c.2a", ip="2001:db8::7", user="ann@example.org")
    )
    assert line.endswith("INFO     sora.imap: logged in  session=4f1c.2a ip=2001:db8::7 user=ann@example.org")


def test_json() -> None:
    entry = json.loads(JsonFormatter().format(record("logged in", session="4f1c.2a", user="grün\n")))
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "sora.imap",
        "message": "logged in",
        "session": "4f1c.2a",
        "user": "grün\n",
    }


@given(st.text(), st.text())
def test_foreign_text_makes_no_second_line(message: str, user: str) -> None:
    made = record("%s", message, user=user)
    line = ConsoleFormatter().format(made)
    assert len(line.splitlines()) == 1
    assert not any(ch in line for ch in "\x1b\u202e\u2028\x85")
    assert len(JsonFormatter().format(made).split("\n")) == 1
    assert json.loads(JsonFormatter().format(made))["user"] == user


def test_a_value_cannot_pass_for_another_field() -> None:
    line = ConsoleFormatter().format(record("login failed", user='x" ip=10.0.0.1 y="', ip="192.0.2.7"))
    assert line.endswith('user="x\\" ip=10.0.0.1 y=\\"" ip=192.0.2.7')


async def test_lines_of_a_session_name_it_and_its_client_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="sora")
    lab = ImapLab()
    wire: Wire = await lab.connect()
    await wire.send(b'i ID ("name" "Mail" "version" "1")\r\nl LOGIN ann@example.org secret\r\n')
    await wire.send(b'j ID ("name" "Mail")\r\n')
    fields = [each.__dict__["fields"] for each in caplog.records]
    assert len(fields) == 3
    for each in fields:
        assert each["session"] == wire.connection.session_id
        assert each["ip"] == "192.0.2.7"
        assert {"protocol", "server"} <= set(each)
    assert [each.get("user") for each in fields] == [None, "ann@example.org", "ann@example.org"]
    text = "".join(ConsoleFormatter().format(each) for each in caplog.records)
    assert "secret" not in text
    for each in caplog.records:
        assert ConsoleFormatter().format(each).count("192.0.2.7") == 1
