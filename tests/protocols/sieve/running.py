"""Compile a script and run it on a message, in the words of the tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from protocols.sieve.budget import Limits
from protocols.sieve.compiling import compile
from protocols.sieve.errors import ScriptErrors
from protocols.sieve.interpreter import Named, evaluate
from protocols.sieve.outcome import (
    Action,
    Discard,
    FileInto,
    Keep,
    Notify,
    Outcome,
    Redirect,
    Reject,
    Vacation,
)
from protocols.sieve.questions import Known, MessageContent
from protocols.sieve.run import Mail
from protocols.sieve.script import IncludeName, Script
from storage.mime.headers import split_header
from storage.mime.structure import scan

NOW = datetime(2026, 11, 22, 14, 5, 9, tzinfo=UTC)  # a Sunday
MESSAGE = b"""\
Return-Path: <ann@example.org>\r
Received: from a by b; Sat, 21 Nov 2026 10:00:00 +0100\r
Received: from c by d; Fri, 20 Nov 2026 09:00:00 -0500\r
From: "Ann, Dr." <Ann+work@Example.ORG>\r
To: bob@example.com, Team: carl@example.net, dora@example.net;\r
Cc: undisclosed\r
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from [list] 42\r
Date: Tue, 1 Apr 1997 09:06:31 -0800\r
X-Empty:\r
X-Number: 17 pieces\r
Content-Type: multipart/mixed; boundary="x"\r
Message-ID: <one@example.org>\r
\r
preamble\r
--x\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: base64\r
\r
SGVsbG8gd8O2cmxk\r
--x\r
Content-Type: text/html; name="page.html"\r
Content-Disposition: attachment; filename="page.html"\r
\r
<p>marked <b>text</b></p>\r
--x--\r
"""


class Clock:
    """Seconds pass with each look."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def compiled(script: str | bytes) -> Script:
    found = compile(script if isinstance(script, bytes) else script.encode())
    assert isinstance(found, Script), str(found)
    return found


def mistakes(script: str | bytes, **options: Any) -> str:
    found = compile(script if isinstance(script, bytes) else script.encode(), **options)
    assert isinstance(found, ScriptErrors), "it compiles"
    return str(found)


def run(
    *scripts: str,
    message: bytes = MESSAGE,
    sender: str = "ann+work@example.org",
    recipient: str = "bob+lists@example.com",
    answers: Mapping[Any, Any] | None = None,
    library: Mapping[IncludeName, Script | None] | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    environment: Mapping[str, str] | None = None,
    spam_percent: float | None = None,
    virus_value: int | None = None,
    wants_trace: bool = False,
) -> Outcome:
    mail = Mail(message[: split_header(message)], len(message), sender, recipient, spam_percent, virus_value)
    known: dict[Any, Any] = {MessageContent(): (message, scan(message)), **(answers or {})}
    return evaluate(
        [Named(f"s{n}", compiled(script)) for n, script in enumerate(scripts)],
        mail,
        Known(known),
        now=NOW,
        clock=clock or Clock(),
        limits=limits or Limits(),
        environment=environment,
        library=library,
        wants_trace=wants_trace,
    )


def told(outcome: Outcome) -> list[str]:
    """The actions, each in a few words."""
    assert outcome.fault == "", outcome.fault
    return [word(action) for action in outcome.actions]


def word(action: Action) -> str:
    if isinstance(action, Keep):
        return _flagged("keep" if action.rule else "implicit", action.flags)
    if isinstance(action, FileInto):
        extra = "".join(
            f" {name}={value}"
            for name, value in (
                ("create", action.create),
                ("use", action.special_use),
                ("id", action.mailbox_id),
            )
            if value
        )
        return _flagged(f"file {action.mailbox}{extra}", action.flags)
    if isinstance(action, Redirect):
        return f"redirect {action.address or action.list_name}"
    if isinstance(action, Discard):
        return "discard"
    if isinstance(action, Reject):
        return f"{'e' * action.extended}reject {action.reason}"
    if isinstance(action, Vacation):
        return f"vacation {action.period_s} {action.reason}"
    assert isinstance(action, Notify)
    return f"notify {action.method} {action.importance} {action.message}"


def _flagged(text: str, flags: tuple[str, ...]) -> str:
    return f"{text} ({' '.join(flags)})" if flags else text


def holds(test: str, *, require: str = "", **world: Any) -> bool:
    """Whether a test is true."""
    names = ", ".join(f'"{name}"' for name in require.split())
    head = f"require [{names}];\n" if require else ""
    outcome = run(f"{head}if {test} {{ discard; }}", **world)
    assert outcome.fault == "", outcome.fault
    return isinstance(outcome.actions[0], Discard)
