"""Messages that are sent on, in pieces."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from protocols.sending.content import PIECE_BYTES, Pieces
from storage.relayqueue import RelayQueue
from tests.support.relaydisk import UnsyncedSpoolDisk


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 1])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_pieces_are_the_whole(size: int, start: int) -> None:
    data = os.urandom(size)
    pieces = Pieces(b"head", data, start)
    whole = b"head" + data[start:]
    assert b"".join(pieces) == whole
    assert b"".join(pieces[at] for at in range(len(pieces))) == whole
    assert b"".join(pieces[1:]) == data[start:]
    assert sum(map(len, pieces)) == len(whole)
    assert max(map(len, pieces)) <= PIECE_BYTES
    for outside in (-1, len(pieces)):
        with pytest.raises(IndexError):
            pieces[outside]


def test_a_mapped_file_is_queued_without_being_read_as_a_whole(tmp_path: Path) -> None:
    path, data = tmp_path / "body", os.urandom(PIECE_BYTES * 2 + 5)
    path.write_bytes(data)
    read: list[int] = []

    class Watched(Pieces):
        def __getitem__(self, at: int | slice) -> bytes | list[bytes]:  # type: ignore[override]
            assert isinstance(at, int), "a slice is all of it"
            read.append(at)
            return super().__getitem__(at)

    queue = RelayQueue(tmp_path / "relay", lambda: 1.0, UnsyncedSpoolDisk(), owner="here")
    queue.open()
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        name = queue.submit("", ["ann@away.test"], Watched(b"A: b\r\n", mapped), kind="redirect", account=1)
    (message,) = queue.take([name])
    assert queue.body(message) == b"A: b\r\n" + data
    assert set(read) >= {0, 1, 2, 3}
    queue.close()
