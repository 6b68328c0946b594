"""Our Sieve engine against Pigeonhole's sieve-test, on a corpus of our own: tests, actions, and what is a
script at all."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocols.sieve.compiling import compile
from protocols.sieve.outcome import Keep
from protocols.sieve.questions import MailboxExists
from protocols.sieve.script import Script
from tests.protocols.sieve.running import run, word
from tests.support.nodeprocess import public_directory

from .conftest import needs
from .sievecorpus import (
    ACTION_SCRIPTS,
    GROUPS,
    INVALID_SCRIPTS,
    MESSAGES,
    VALID_SCRIPTS,
    WRONG_THERE,
    script_of,
)

SENDER, RECIPIENT = "ann+work@example.org", "bob+lists@example.com"
BATCH = 80  # a message has at most so many flags
CONFIG = """
mail_uid = 65534
mail_gid = 65534
first_valid_uid = 1
mail_location = maildir:{directory}/mail
postmaster_address = postmaster@example.com
hostname = mail.example.com
log_path = /dev/stderr
namespace inbox {{
  inbox = yes
  separator = /
}}
plugin {{
  sieve_extensions = +editheader +vacation-seconds
  sieve_user_email = bob@example.com
}}
"""
_STORE = re.compile(
    r" \* (store message in folder: |discard|redirect message to: |reject|send vacation)([^\n]*)"
)
_FLAGS = re.compile(r"\+ add IMAP flags:([^\n]*)")


@dataclass
class Oracle:
    program: str
    directory: Path

    def __call__(self, script: str, message: bytes) -> str:
        """What sieve-test prints; its errors when the script is none."""
        (self.directory / "script.sieve").write_text(script)
        (self.directory / "message.eml").write_bytes(message)
        done = subprocess.run(
            [
                *(self.program, "-c", str(self.directory / "dovecot.conf"), "-f", SENDER),
                *("-a", RECIPIENT, "-r", RECIPIENT),
                *(str(self.directory / name) for name in ("script.sieve", "message.eml")),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout if "Performed actions" in done.stdout else f"refused: {done.stderr}"


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    program = needs("sieve-test")
    directory = public_directory("sieve-oracle-")
    directory.chmod(0o777)  # the account it drops to compiles beside the script
    (directory / "dovecot.conf").write_text(CONFIG.format(directory=directory))
    yield Oracle(program, directory)
    shutil.rmtree(directory)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("group", GROUPS)
def test_tests_agree(oracle: Oracle, group: str, message: str) -> None:
    differing = []
    for first in range(0, len(GROUPS[group]), BATCH):
        tests = GROUPS[group][first : first + BATCH]
        script = script_of(tests, first)
        told = oracle(script, MESSAGES[message])
        assert "store message" in told, told
        found = _FLAGS.search(told)
        theirs = set(found[1].split()) if found else set()
        outcome = run(script, message=MESSAGES[message], sender=SENDER, recipient=RECIPIENT)
        (kept,) = outcome.actions
        assert isinstance(kept, Keep), outcome
        ours = set(kept.flags)
        differing += [
            f"ours {f't{n}' in ours}, theirs {f't{n}' in theirs}: {test}"
            for n, test in enumerate(tests, first)
            if (f"t{n}" in ours) != (f"t{n}" in theirs) and not test.endswith(WRONG_THERE)
        ]
    assert not differing, "\n".join(differing)


def theirs_in_words(told: str) -> list[str]:
    performed, _, implicit = told.partition("Implicit keep:")
    lines = [f"{what}{rest}".strip() for what, rest in _STORE.findall(performed)]
    names = {"store message in folder:": "file", "redirect message to:": "redirect"}
    found = []
    for line in lines:
        for long, short in names.items():
            line = line.replace(long, short)
        found.append(line.replace("<", "").replace(">", "").replace("send vacation message:", "vacation"))
    return found + (["file INBOX"] if "store message" in implicit else [])


def ours_in_words(script: str, message: bytes) -> list[str]:
    outcome = run(
        script,
        message=message,
        sender=SENDER,
        recipient=RECIPIENT,
        answers={MailboxExists("INBOX"): True},
        environment={"location": "MS"},
    )
    names = {"keep": "file INBOX", "implicit": "file INBOX"}
    words = (word(action).partition(" (")[0].removesuffix(" create=True") for action in outcome.actions)
    found = [names.get(each, each) for each in words]
    return ["vacation" if each.startswith("vacation") else each for each in found]


@pytest.mark.parametrize("message", ["plain", "parts"])
@pytest.mark.parametrize("script", ACTION_SCRIPTS)
def test_actions_agree(oracle: Oracle, script: str, message: str) -> None:
    told = oracle(script, MESSAGES[message])
    theirs = [each.replace("reject message with reason:", "reject") for each in theirs_in_words(told)]
    if told.startswith("refused"):  # it fails at run time: both keep
        theirs = ["file INBOX"]
    assert ours_in_words(script, MESSAGES[message]) == theirs


@pytest.mark.parametrize("script", VALID_SCRIPTS)
def test_valid_scripts_are_valid_for_both(oracle: Oracle, script: str) -> None:
    assert not oracle(script, MESSAGES["plain"]).startswith("refused")
    assert isinstance(compile(script.encode()), Script)


@pytest.mark.parametrize("script", INVALID_SCRIPTS)
def test_invalid_scripts_are_invalid_for_both(oracle: Oracle, script: str) -> None:
    assert oracle(script, MESSAGES["plain"]).startswith("refused")
    assert not isinstance(compile(script.encode()), Script)
