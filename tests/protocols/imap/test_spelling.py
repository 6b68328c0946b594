"""However a command is spelled on the wire, it means the same: atoms, quoted strings, literals, at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.imap import ImapLab
from tests.support.wire import Wire, parse_script

FOLDER = Path(__file__).resolve().parents[2] / "transcripts" / "imap"

# Arguments that may be any string stand in «»; the commands run in this order against one account.
COMMANDS = (
    "CREATE «work/one»",
    "SUBSCRIBE «work/one»",
    "STATUS «work/one» (MESSAGES)",
    "LIST «work» «/%»",
    'LIST (SUBSCRIBED) "" («work/*» «INBOX»)',
    "LSUB «work/» «*»",
    "RENAME «work/one» «work/two»",
    "UNSUBSCRIBE «work/one»",
    "SELECT «INBOX»",
    "COPY 1:2 «work/two»",
    "UID MOVE 1 «work/two»",
    "SEARCH SUBJECT «x» BODY «hi» HEADER «Subject» «x» NOT OR FROM «a» TO «b»",
    "SEARCH CHARSET «UTF-8» TEXT «hi»",
    "FETCH 1 BODY.PEEK[HEADER.FIELDS («Subject» «From»)]",
    "EXAMINE «work/two»",
    "ID («name» «tester»)",
    "DELETE «work/two»",
)
_ARGUMENT = re.compile("«([^»]*)»")


def as_atoms(word: str) -> str:
    return word


def as_quoted(word: str) -> str:
    return f'"{word}"'


def as_literal(word: str) -> str:
    return f"{{{len(word)}}}\r\n{word}"


def as_literal_plus(word: str) -> str:
    return f"{{{len(word)}+}}\r\n{word}"


def masked(output: bytes) -> bytes:
    """Without what depends on the clock, on the spelling, or asks for a literal."""
    output = re.sub(rb"(UIDVALIDITY|APPENDUID|COPYUID) \d+", rb"\1 n", output)
    output = re.sub(rb'INTERNALDATE "[^"]*"', b"INTERNALDATE", output)
    return re.sub(rb"^\+ [^\r]*\r\n", b"", output, flags=re.MULTILINE)


async def answers(spell: object) -> list[bytes]:
    lab = ImapLab()
    for _ in range(3):
        lab.mail.deliver("INBOX")
    wire = await lab.log_in()
    found = []
    for number, command in enumerate(COMMANDS):
        line = _ARGUMENT.sub(lambda match: spell(match[1]), command)  # type: ignore[operator]
        found.append(masked(await wire.send(f"{number} {line}\r\n".encode())))
    return found


async def test_every_string_may_be_an_atom_a_quoted_string_or_a_literal() -> None:
    expected = await answers(as_quoted)
    for number, answer in enumerate(expected):
        assert b"%d OK" % number in answer, (COMMANDS[number], answer)
    for spell in (as_literal, as_literal_plus):
        assert await answers(spell) == expected
    plain = await answers(lambda word: as_quoted(word) if COMMANDS[15].count(f"«{word}»") else as_atoms(word))
    assert plain == expected


def client_lines(path: Path) -> list[bytes]:
    return [data + b"\r\n" * (side == "C") for side, data in parse_script(path.read_text()) if side in "C|"]


def is_free_to_pipeline(lines: list[bytes]) -> bool:
    """No command waits for a continuation, and none is meant to be broken by what follows it."""
    waiting = re.compile(rb"(?i)\S+ (IDLE|AUTHENTICATE)|.*[^+]\}\r\n")
    return not any(waiting.match(line) for line in lines)


async def conversation(path: Path, lines: list[bytes]) -> tuple[Wire, bytes]:
    lab = ImapLab()
    text = path.read_text()
    wire = await (lab.log_in() if "@login" in text or "@select" in text else lab.connect())
    for line in text.splitlines():
        words = line.split()
        for _ in range(int(words[2]) if line.startswith("@deliver") else 0):
            lab.mail.deliver(words[1])
    if match := re.search("@select (.*)", text):
        await wire.send(f"s SELECT {match[1]}\r\n".encode())
    output = b"".join([await wire.send(line) for line in lines])
    return wire, masked(output)


PIPELINED = [path for path in sorted(FOLDER.glob("*.txt")) if is_free_to_pipeline(client_lines(path))]


@pytest.mark.parametrize("path", PIPELINED, ids=lambda path: path.stem)
async def test_commands_sent_at_once_are_answered_as_one_by_one(path: Path) -> None:
    lines = client_lines(path)
    _, one_by_one = await conversation(path, lines)
    _, at_once = await conversation(path, [b"".join(lines)])
    assert at_once == one_by_one
    _, in_pieces = await conversation(path, re.findall(rb"(?s).{1,7}", b"".join(lines)))
    assert in_pieces == one_by_one


def test_there_is_something_to_pipeline() -> None:
    assert len(PIPELINED) >= 10
