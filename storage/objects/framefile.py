"""Random access to an encoded body in a file, frame by frame."""

from __future__ import annotations

import os
import threading

from storage.errors import Corrupt
from storage.model import ContentHash

from .codec import FRAME_BYTES, FRAME_HEAD, HEADER, Codec, parse_frame_head, parse_header
from .disk import Descriptor


class FrameFile:
    """Calls block; readers may share it.

    Finding frame n reads the heads of the frames before it, 8 bytes each and only once. Every frame is
    checked by itself; the hash of the whole is not.
    """

    def __init__(self, file: Descriptor, codec: Codec, content_hash: ContentHash) -> None:
        """Raises Corrupt, OSError."""
        self._file = file
        header = parse_header(os.pread(file.fd, HEADER.size, 0))
        self._opener = codec.frame_opener(header, content_hash)
        self.size_bytes = header.size_bytes
        self._offsets = [HEADER.size]
        self._lock = threading.Lock()

    def frame(self, index: int) -> bytes:
        """Plaintext of one frame. Raises Corrupt, OSError."""
        with self._lock:
            start = self._offset(index)
            end = self._offset(index + 1)
        return self._opener.open(index, self._exactly(end - start, start))

    def read(self, start: int, stop: int) -> bytes:
        """Plaintext start..stop, both within the size."""
        if stop <= start:
            return b""
        first, last = start // FRAME_BYTES, (stop - 1) // FRAME_BYTES
        joined = b"".join(self.frame(index) for index in range(first, last + 1))
        base = first * FRAME_BYTES
        return joined if (start, stop) == (base, base + len(joined)) else joined[start - base : stop - base]

    def _offset(self, index: int) -> int:
        while len(self._offsets) <= index:
            at = self._offsets[-1]
            head = self._exactly(FRAME_HEAD.size, at)
            self._offsets.append(at + FRAME_HEAD.size + parse_frame_head(head)[1])
        return self._offsets[index]

    def _exactly(self, count: int, at: int) -> bytes:
        data = os.pread(self._file.fd, count, at)
        if len(data) != count:
            raise Corrupt("encoded body is cut short")
        return data
