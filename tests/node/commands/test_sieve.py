"""``sora-admin sieve test``: works on files alone, and names the lines that decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.admin import main

from .conftest import Admin

SCRIPT = """require ["fileinto", "copy", "mailbox", "imap4flags", "include"];
if header :contains "list-id" "dev" {
    addflag "\\\\Seen";
    fileinto :copy :create "Lists/dev";
}
if size :under 1K {
    redirect "else@example.net";
}
include :optional "more";
"""
MESSAGE = b"From: a@example.org\nTo: ann+x@example.org\nList-Id: <dev.example.org>\nSubject: x\n\nbody\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "main.sieve").write_text(SCRIPT)
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    (tmp_path / "more.sieve").write_text('require "envelope"; if envelope "to" "ann+x@example.org" { keep; }')
    return tmp_path


def run(files: Path, *arguments: str) -> Result:
    given = ["sieve", "test", str(files / "main.sieve"), str(files / "message.eml"), *arguments]
    return CliRunner().invoke(main, given)


def test_every_action_has_its_lines(files: Path) -> None:
    result = run(files)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        'file into "Lists/dev" (created if need be) with \\Seen  [main.sieve line 4, because of line 2]',
        "redirect to else@example.net  [main.sieve line 7, because of line 6]",
    ]


def test_includes_and_trace(files: Path) -> None:
    result = run(files, "--includes", str(files), "--trace")
    assert result.exit_code == 0
    assert "keep with \\Seen  [more line 1, because of line 1]" in result.output
    assert "main.sieve:4: fileinto Lists/dev" in result.output


def test_json(files: Path) -> None:
    told = json.loads(run(files, "--json").output)
    first, second = told["actions"]
    assert (first["action"], first["mailbox"], first["line"], first["because_line"]) == (
        "fileinto",
        "Lists/dev",
        4,
        2,
    )
    assert second["address"] == "else@example.net"
    assert told["fault"] == ""


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("X-Any: x", []),
        ("List-Id: <dev.example.org>", ["no answer goes: it comes from a mailing list"]),
        (
            "Auto-Submitted: auto-replied",
            [
                "no answer goes: it was sent automatically",
                "no notification goes: the message was sent automatically",
            ],
        ),
    ],
)
def test_why_nothing_would_be_sent(files: Path, field: str, said: list[str]) -> None:
    (files / "main.sieve").write_text(
        'require ["vacation", "enotify"]; vacation "Away."; notify "mailto:a@b.test";'
    )
    (files / "message.eml").write_text(f"From: a@example.org\nTo: ann+x@example.org\n{field}\n\nbody\n")
    lines = run(files).output.splitlines()
    assert lines[3:] == said


def test_nobody_is_answered_who_wrote_to_others(files: Path) -> None:
    (files / "main.sieve").write_text('require "vacation"; vacation "Away.";')
    (files / "message.eml").write_bytes(MESSAGE.replace(b"List-Id", b"X-Id"))
    assert "no answer goes" not in run(files).output
    assert "no address of the account is among its recipients" in run(files, "--to", "b@example.org").output


def test_mistakes_have_a_place(files: Path) -> None:
    (files / "main.sieve").write_text("keep;\nfrobnicate;\n")
    result = run(files)
    assert result.exit_code == 1
    assert 'main.sieve:line 2, column 1: there is no command "frobnicate"' in result.output


def test_what_is_hardly_meant_has_a_place(files: Path) -> None:
    (files / "main.sieve").write_text('if header "To:" "x" {\n  stop;\n}\n')
    result = run(files)
    assert result.exit_code == 0
    assert 'main.sieve:line 1, column 4: "To:" is no name of a header field' in result.output


def test_script_that_fails_says_why(files: Path) -> None:
    (files / "main.sieve").write_text('require "include"; discard; include "absent";')
    result = run(files)
    assert result.exit_code == 1
    assert "cannot be included" in result.output
    assert "keep (implicit)" in result.output


def test_scripts_of_an_account(admin: Admin, files: Path) -> None:
    admin("accounts", "create", "ann@example.org", "--generate")
    ann = ("ann@example.org",)
    assert admin("sieve", "put", *ann, "main", input=SCRIPT).exit_code == 0
    assert admin("sieve", "put", *ann, "more", str(files / "more.sieve")).exit_code == 0
    refused = admin("sieve", "put", *ann, "bad", input="frob;")
    assert refused.exit_code == 1
    assert "line 1, column 1" in refused.output
    assert admin("sieve", "put", *ann, "bad", "--force", input="frob;").exit_code == 0
    doubtful = admin("sieve", "put", *ann, "bad", input="stop; keep;")
    assert doubtful.exit_code == 0
    assert 'warning: line 1, column 7: this is never reached: "stop" stands before it' in doubtful.output
    unavailable = admin("sieve", "put", *ann, "edit", input='require "editheader"; addheader "x" "y";')
    assert 'the extension "editheader" is not available' in unavailable.output
    assert admin("sieve", "activate", *ann, "main").exit_code == 0
    assert admin("sieve", "activate", *ann, "absent").exit_code == 3
    assert admin("sieve", "delete", *ann, "main").exit_code == 1
    assert admin("sieve", "rename", *ann, "main", "new").exit_code == 0
    assert admin("sieve", "rename", *ann, "new", "more").exit_code == 4
    listed = json.loads(admin("sieve", "list", *ann, "--json").output)
    assert [(each["name"], each["active"]) for each in listed] == [
        ("bad", False),
        ("more", False),
        ("new", True),
    ]
    assert "new" in admin("sieve", "list", *ann).output
    assert admin("sieve", "get", *ann, "new").output == SCRIPT
    assert admin("sieve", "deactivate", *ann).exit_code == 0
    assert admin("sieve", "delete", *ann, "new").exit_code == 0
    assert admin("sieve", "get", *ann, "new").exit_code == 3


EVENTS = r"""require ["imapsieve", "environment", "imap4flags", "fileinto", "variables"];
if environment :matches "imap.cause" "*" { set "cause" "${1}"; }
if allof (hasflag "\\Flagged", environment :contains "imap.changedflags" "\\Flagged") {
    addflag "${cause}";
} elsif environment "imap.mailbox" "Trash" {
    fileinto "Archive";
}
"""


def try_event(files: Path, *arguments: str, script: str = EVENTS) -> Result:
    (files / "main.sieve").write_text(script)
    return run(files, "--event", *arguments)


def test_events(files: Path) -> None:
    result = try_event(files, "flag", "--flag", "\\Flagged", "--changed", "\\Flagged")
    assert (result.exit_code, result.output) == (0, "keep (implicit) with \\Flagged FLAG\n")
    result = try_event(files, "COPY", "--in", "Trash", "--flag", "work")
    assert result.output.splitlines() == [
        'file into "Archive" with work  [main.sieve line 6, because of line 5]',
        "the message itself gets \\Deleted",
    ]
    assert try_event(files, "APPEND").output == "keep (implicit)\n"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('require "vacation"; vacation "away";', "vacation is for mail that is being delivered"),
        ('require "envelope"; if envelope "to" "x" { stop; }', "there is no envelope"),
    ],
)
def test_what_answers_deliveries_fails_on_events(files: Path, script: str, why: str) -> None:
    result = try_event(files, "APPEND", script=script)
    assert result.exit_code == 1
    assert why in result.output
