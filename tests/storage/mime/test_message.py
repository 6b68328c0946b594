"""describe() ties the parts of the package together."""

from __future__ import annotations

import hashlib
import mmap
import tempfile

from storage.mime.envelope import decode_envelope
from storage.mime.message import describe
from storage.mime.structure import MAX_HEADER_BYTES, decode_structure, scan
from storage.model import ContentHash

MESSAGE = b"Subject: hi\r\nFrom: a@b.example\r\n\r\nbody\r\n"


def test_describe_stores_what_was_scanned() -> None:
    content = describe(MESSAGE)
    assert content.hash == hashlib.sha256(MESSAGE).digest()
    assert content.size_bytes == len(MESSAGE)
    assert content.header == b"Subject: hi\r\nFrom: a@b.example\r\n\r\n"
    assert decode_envelope(content.envelope).subject == b"hi"
    assert decode_structure(content.structure) == scan(MESSAGE)


def test_describe_takes_a_known_hash_and_any_buffer() -> None:
    known = ContentHash(b"k" * 32)
    assert describe(MESSAGE, known).hash == known
    expected = describe(MESSAGE)
    assert describe(bytearray(MESSAGE)) == expected
    assert describe(memoryview(MESSAGE)) == expected
    with tempfile.TemporaryFile() as file:
        file.write(MESSAGE)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert describe(mapped) == expected


def test_header_block_is_bounded_and_structure_tells() -> None:
    data = b"X: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\nbody"
    content = describe(data)
    assert content.header == data[:MAX_HEADER_BYTES]
    assert decode_structure(content.structure).body_start == len(data) - 4
