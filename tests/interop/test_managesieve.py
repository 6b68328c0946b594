"""sieve-connect, as a user has it, and clients that mean no good, on a node."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.nodeprocess import NodeProcess
from tests.support.sieveconnect import SieveConnect
from tests.support.sieveeditor import SieveEditor

from .conftest import PASSWORD, needs

SCRIPT = b'require ["fileinto"];\n\nif header :contains "Subject" "list" {\n  fileinto "Lists";\n}\n'


@pytest.fixture
def sieve_connect(node: NodeProcess, account: str) -> SieveConnect:
    needs("sieve-connect")
    return SieveConnect(node, account, PASSWORD)


def listed(sieve_connect: SieveConnect) -> list[str]:
    done = sieve_connect("--list")
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_sieve_connect_edits_scripts_over_starttls(
    sieve_connect: SieveConnect, tmp_path: Path, mechanism: str
) -> None:
    script, back = tmp_path / "mine.sieve", tmp_path / "back.sieve"
    script.write_bytes(SCRIPT)
    by = ("--authmech", mechanism)
    for arguments in (
        ("--checkscript", "--localsieve", str(script)),
        ("--upload", "--localsieve", str(script), "--remotesieve", "main"),
        ("--upload", "--localsieve", str(script), "--remotesieve", "größe"),
        ("--activate", "--remotesieve", "main"),
        ("--download", "--remotesieve", "main", "--localsieve", str(back)),
    ):
        done = sieve_connect(*by, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert back.read_bytes() == SCRIPT
    assert [line.strip() for line in listed(sieve_connect)] == ['"größe"', '"main" ACTIVE']
    refused = sieve_connect(*by, "--delete", "--remotesieve", "main")
    assert refused.returncode != 0
    assert "(ACTIVE)" in refused.stderr
    assert sieve_connect(*by, "--deactivate").returncode == 0
    for name in ("main", "größe"):
        assert sieve_connect(*by, "--delete", "--remotesieve", name).returncode == 0
    assert not "".join(listed(sieve_connect)).strip()


def test_sieve_connect_shows_what_is_wrong_with_a_script(sieve_connect: SieveConnect, tmp_path: Path) -> None:
    script = tmp_path / "broken.sieve"
    script.write_text('keep;\nfileinto "Lists";\nif tru { stop; }\n')
    for arguments in (("--checkscript",), ("--upload", "--remotesieve", "main")):
        done = sieve_connect(*arguments, "--localsieve", str(script))
        assert done.returncode != 0
        assert re.search(r"line 2\b", done.stderr), done.stderr
    script.write_bytes(b"# far too much\n" * 2_000)
    done = sieve_connect("--upload", "--localsieve", str(script), "--remotesieve", "main")
    assert done.returncode != 0
    assert "(QUOTA/MAXSIZE)" in done.stderr
    assert not "".join(listed(sieve_connect)).strip()


def test_what_is_hardly_meant_is_stored_with_a_warning(
    node: NodeProcess, account: str, tmp_path: Path
) -> None:
    doubtful = b'if header "Subject:" "x" {\n  stop;\n  keep;\n}\n'
    with SieveEditor(node, account, PASSWORD) as editor:
        for command in (b"CHECKSCRIPT", b'PUTSCRIPT "a"'):
            status, _ = editor.ask(b"%b {%d+}\r\n%b\r\n" % (command, len(doubtful), doubtful))
            assert status.startswith(b"OK (WARNINGS) "), status
            assert b"line 1, column 4: " in status
            assert b"line 3, column 3: " in status
        assert editor.ask(b"LISTSCRIPTS\r\n")[1] == [b'"a"']
    needs("sieve-connect")
    (tmp_path / "a.sieve").write_bytes(doubtful)
    done = SieveConnect(node, account, PASSWORD)(
        "--upload", "--localsieve", str(tmp_path / "a.sieve"), "--remotesieve", "b"
    )
    assert done.returncode == 0, done.stderr


def test_sieve_connect_with_a_wrong_password(sieve_connect: SieveConnect) -> None:
    done = sieve_connect("--list", password="guess")
    assert done.returncode != 0
    assert "refused" in done.stderr


# --- by hand ------------------------------------------------------------------------------------------


def test_one_session_sees_what_the_other_changes(node: NodeProcess, account: str) -> None:
    with SieveEditor(node, account, PASSWORD) as one, SieveEditor(node, account, PASSWORD) as other:
        assert one.ask(b'PUTSCRIPT "a" {5+}\r\nkeep;\r\n')[0].startswith(b"OK")
        assert one.ask(b'SETACTIVE "a"\r\n')[0].startswith(b"OK")
        assert other.ask(b"LISTSCRIPTS\r\n")[1] == [b'"a" ACTIVE']
        assert other.ask(b'RENAMESCRIPT "a" "b"\r\n')[0].startswith(b"OK")
        assert one.ask(b'GETSCRIPT "a"\r\n')[0].startswith(b"NO (NONEXISTENT)")
        assert one.ask(b"LISTSCRIPTS\r\n")[1] == [b'"b" ACTIVE']
        assert one.ask(b'DELETESCRIPT "b"\r\n')[0].startswith(b"NO (ACTIVE)")
        assert other.ask(b'SETACTIVE ""\r\n')[0].startswith(b"OK")
        assert one.ask(b'DELETESCRIPT "b"\r\n')[0].startswith(b"OK")


def test_as_many_scripts_as_may_be(node: NodeProcess, account: str) -> None:
    with SieveEditor(node, account, PASSWORD) as editor:
        editor.send(b"".join(b'PUTSCRIPT "%d" "keep;"\r\n' % number for number in range(101)))
        said = [editor.line() for _ in range(101)]
        assert all(line.startswith(b"OK") for line in said[:100])
        assert said[100].startswith(b"NO (QUOTA/MAXSCRIPTS)")
        assert editor.ask(b'HAVESPACE "x" 10\r\n')[0].startswith(b"NO (QUOTA/MAXSCRIPTS)")
        assert len(editor.ask(b"LISTSCRIPTS\r\n")[1]) == 100


def test_scripts_that_mean_no_good(node: NodeProcess, account: str) -> None:
    """Nesting, long lists and patterns end with an error and a place; the session lives."""
    bombs = [
        b"if true {" * 1500 + b"}" * 1500,
        b"if not " + b"not " * 3500 + b"true { stop; }",
        b'if header :is "a" [' + b'"x",' * 3900 + b'"x"',
        b'require "regex"; if header :regex "a" "' + b"(a*)*" * 100 + b'[" { stop; }',
        b'require "regex"; if header :regex "a" "'
        + b"(" * 60
        + b"a{1,100}"
        + b"){1,100}" * 60
        + b'" { stop; }',
        b"\x00" * 1000,
        b"\xff" * 1000,
        b"/*" + b"*" * 10_000,
        b'"' * 10_001,
    ]
    with SieveEditor(node, account, PASSWORD) as editor:
        for bomb in bombs:
            status, _ = editor.ask(b'PUTSCRIPT "bomb" {%d+}\r\n%b\r\n' % (len(bomb), bomb))
            assert status.startswith(b"NO "), (bomb[:30], status)
            assert b"line 1" in status, (bomb[:30], status)
        assert editor.ask(b"LISTSCRIPTS\r\n")[1] == []


def test_a_huge_script_ends_the_connection_at_once(node: NodeProcess, account: str) -> None:
    with SieveEditor(node, account, PASSWORD) as editor:
        assert editor.ask(b'PUTSCRIPT "a" {3000000000+}\r\n')[0].startswith(b"BYE (QUOTA/MAXSIZE)")
        assert editor.until_closed() == b""
