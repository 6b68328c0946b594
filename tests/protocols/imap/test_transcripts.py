"""Conversations from ``tests/transcripts/imap``, each against a fresh account.

Beside ``C:`` and ``S:`` lines a transcript may say ``@login``, ``@select MAILBOX`` and
``@deliver MAILBOX COUNT``; all of them happen before the first line.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.imap import ImapLab
from tests.support.wire import play

FOLDER = Path(__file__).resolve().parents[2] / "transcripts" / "imap"
ELSEWHERE = {"fetch", "search"}  # they need messages with content: test_fetch_session
TRANSCRIPTS = sorted(path for path in FOLDER.glob("*.txt") if path.stem not in ELSEWHERE)
GREETING = "S: * OK [CAPABILITY *\n"
LOGIN = "C: @1 LOGIN ann@example.org secret\nS: @1 OK [CAPABILITY *\n"


def prepared(text: str, lab: ImapLab) -> str:
    """The whole script; side effects of the directives have happened."""
    script = GREETING
    for line in text.splitlines():
        words = line.split()
        if line.startswith("@login"):
            script += LOGIN
        elif line.startswith("@deliver"):
            for _ in range(int(words[2])):
                lab.mail.deliver(words[1])
        elif line.startswith("@select"):
            script += f"C: @2 SELECT {words[1]}\n" + "S: * *\n" * 8 + "S: @2 OK [READ-WRITE] Selected\n"
    return script + text


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_transcript(path: Path) -> None:
    lab = ImapLab()
    await play(lab.factory, prepared(path.read_text(), lab))


def test_transcripts_are_there() -> None:
    assert len(TRANSCRIPTS) >= 15
