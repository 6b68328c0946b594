"""Files of addresses: found by name, read again when changed, and nothing else of the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.listfiles import LOOKS_AGAIN_S, MAX_FILE_BYTES, ListFiles
from protocols.addresslists import PREFIX, AddressList
from storage.errors import Unavailable

BOARD = f"{PREFIX}board"


class Lab:
    def __init__(self, directory: Path) -> None:
        self.now = 100.0
        self.path = directory / "board.list"
        self.files = ListFiles(directory, clock=lambda: self.now)

    async def members(self, name: str = BOARD) -> frozenset[str] | None:
        found = await self.files.find(name)
        return None if found is None else found.members

    def later(self) -> None:
        self.now += LOOKS_AGAIN_S


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


async def test_lists_come_change_and_go(lab: Lab) -> None:
    assert await lab.members() is None
    lab.path.write_text("ann@example.org\n")
    assert await lab.members() is None  # looked a moment ago
    lab.later()
    assert await lab.members() == {"ann@example.org"}
    new = lab.path.with_suffix(".new")
    new.write_text("bob@example.org\n")  # as many octets, and it may be the same moment
    os.replace(new, lab.path)
    lab.later()
    assert await lab.members() == {"bob@example.org"}
    lab.path.unlink()
    lab.later()
    assert await lab.members() is None


async def test_file_that_did_not_change_is_not_read_again(lab: Lab) -> None:
    lab.path.write_text("ann@example.org\n")
    before = await lab.files.find(BOARD)
    lab.later()
    assert await lab.files.find(BOARD) is before


async def test_name_is_no_path(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.list").write_text("ann@example.org\n")
    (tmp_path / ".hidden.list").write_text("ann@example.org\n")
    lab.path.write_text("ann@example.org\n")
    for name in ("deep/x", "../x", ".hidden", "", "board.list", "board\0"):
        assert await lab.members(PREFIX + name) is None, name
    assert await lab.members("board") is None
    assert await lab.members("tag:example.org,2020:board") is None
    assert await lab.members(BOARD.replace("tag:", "TAG:")) is not None


async def test_trouble_is_told(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.path.mkdir()
    with pytest.raises(Unavailable, match="cannot be read"):
        await lab.files.find(BOARD)
    lab.path.rmdir()
    lab.path.write_text("ann@example.org\nnonsense\n")
    assert await lab.files.find(BOARD) == AddressList(frozenset({"ann@example.org"}))
    assert "lines that are no addresses: 2" in caplog.text
    lab.later()
    lab.path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert await lab.files.find(BOARD) is None
    assert "larger than" in caplog.text
