"""Who is answered and notified: our Sieve against Pigeonhole's, on the table of our own rules."""

from __future__ import annotations

import email
import email.policy
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from protocols.sending.answering import why_no_answer
from tests.protocols.sending.letters import ANN, ANNIE, BOB, message, parsed
from tests.protocols.sending.test_answering import ANSWERED, UNANSWERED, question
from tests.support.nodeprocess import public_directory
from tests.support.sievehost import sieve_host

from .conftest import needs

CONFIG = """
mail_uid = 65534
mail_gid = 65534
first_valid_uid = 1
mail_location = maildir:{directory}/mail
mail_home = {directory}
postmaster_address = postmaster@example.test
hostname = mail.example.test
log_path = /dev/stderr
namespace inbox {{
  inbox = yes
  separator = /
}}
plugin {{
  sieve_extensions = +vacation-seconds
  sieve_user_email = {owner}
}}
"""


class Answerer:
    """Runs a script for good (``-e``); what it would send, sieve-test prints."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory

    def __call__(self, script: str, data: bytes, sender: str) -> str:
        (self._directory / "script.sieve").write_text(script)
        (self._directory / "message.eml").write_bytes(data)
        config = self._directory / "dovecot.conf"
        done = subprocess.run(
            [
                *(self._program, "-e", "-c", str(config), "-f", sender, "-a", ANN, "-r", ANN),
                *(str(self._directory / name) for name in ("script.sieve", "message.eml")),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "final result: success" in done.stderr, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def pigeonhole() -> Iterator[Answerer]:
    program = needs("sieve-test")
    directory = public_directory("sieve-answers-")
    directory.chmod(0o777)
    (directory / "dovecot.conf").write_text(CONFIG.format(directory=directory, owner=ANN))
    yield Answerer(program, directory)
    shutil.rmtree(directory)


def vacation_script(addresses: Sequence[str]) -> str:
    """Pigeonhole does not know our aliases."""
    known = ", ".join(f'"{each}"' for each in [ANNIE, "ann+lists@example.test", *addresses])
    return f'require ["vacation", "vacation-seconds"]; vacation :seconds 0 :addresses [{known}] "Away.";'


def is_their_address(sender: str) -> bool:
    """sieve-test takes neither the null path nor what is not ASCII."""
    return re.fullmatch(r"[!-=?-~]+@[a-z.-]+", sender) is not None


CASES: list[tuple[dict[str, str], dict[str, Any]]] = [
    case
    for case in (*ANSWERED, *((fields, rest) for _, fields, rest in UNANSWERED))
    if is_their_address(case[1].get("sender", BOB))
]
# RFC 3834 §5 allows comments and parameters behind "no"; they take them for another word.
WE_ALONE: tuple[dict[str, str], ...] = (
    {"Auto_Submitted": "No (a person)"},
    {"Auto_Submitted": "no; why=person"},
)
# Where nobody waits for an answer, and RFC 5230 §4.6 leaves it to us.
THEY_ALONE = re.compile(
    r"noreply|no[-._]reply|not-?reply|bounce|list-owner|Annie.x@|From': 'MAILER-DAEMON|junk \(really"
    r"|list_anything|Mailing_List|'AutoReply'|multipart/report|'X_Spam|'X_Virus",
    re.IGNORECASE,
)


@pytest.mark.parametrize(("fields", "rest"), CASES)
def test_the_same_are_answered(pigeonhole: Answerer, fields: dict[str, str], rest: dict[str, Any]) -> None:
    told = pigeonhole(vacation_script(rest.get("addresses", ())), message(**fields), rest.get("sender", BOB))
    theirs = "RECIPIENT: " in told
    ours = why_no_answer(question(fields, **rest)) == ""
    if ours and not theirs:
        assert fields in WE_ALONE
    elif theirs and not ours:
        assert THEY_ALONE.search(repr((fields, rest)))


async def test_there_is_an_answer_in_their_form(pigeonhole: Answerer) -> None:
    script = 'require "vacation"; vacation {} "I am away.\nAnn";'
    for tags in ("", ':subject "Bin weg, Grüße"', ':from "Ann Cook <ann@example.test>"'):
        told = pigeonhole(script.format(tags), message(References="<0@away.test>"), BOB)
        theirs = email.message_from_string(told, policy=email.policy.default)
        host = await sieve_host()
        await host.put(script.format(tags))
        await host.send(message=message(References="<0@away.test>"), sender=BOB)
        ours = parsed([host.outbox.sent[0].message])
        for name in ("Subject", "In-Reply-To", "References", "Auto-Submitted", "Precedence"):
            assert ours[name] == theirs[name]
        for name in ("From", "To"):
            assert ours[name].addresses[0].addr_spec == theirs[name].addresses[0].addr_spec


NOTIFIED: list[tuple[dict[str, str], str]] = [
    ({}, BOB),
    ({"Auto_Submitted": "auto-generated"}, BOB),
    ({"Auto_Submitted": "auto-notified"}, BOB),
    ({"Auto_Submitted": "no"}, BOB),
    ({"Precedence": "bulk", "List_Id": "<l.test>"}, BOB),
    ({"To": "others@away.test"}, BOB),
    ({}, ANN),
]


@pytest.mark.parametrize(("fields", "sender"), NOTIFIED)
async def test_the_same_notify(pigeonhole: Answerer, fields: dict[str, str], sender: str) -> None:
    script = 'require "enotify"; notify "mailto:pager@phone.test?cc=b@phone.test&subject=One%20two&body=Hi";'
    told = pigeonhole(script, message(**fields), sender)
    host = await sieve_host()
    await host.put(script)
    await host.send(message=message(**fields), sender=sender)
    assert host.sent_to() == re.findall(r"RECIPIENT: (\S+)", told)
    if host.outbox.sent:
        theirs = email.message_from_string(told[told.index("Message-ID") :], policy=email.policy.default)
        ours = parsed([host.outbox.sent[0].message])
        for name in ("Subject", "To", "From"):
            assert str(ours[name]).replace("<", "").replace(">", "") == re.sub("[<>]", "", str(theirs[name]))
