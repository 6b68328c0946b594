"""Everything stored of a content besides its bytes."""

from __future__ import annotations

import hashlib
import mmap

from storage.model import Buffer, Content, ContentHash

from .envelope import encode_envelope, parse_envelope
from .structure import MAX_HEADER_BYTES, encode_structure, scan


def describe(data: Buffer | mmap.mmap, content_hash: ContentHash | None = None) -> Content:
    """Hash, header block, envelope and part structure of a content. Linear; never raises on what it says.

    ``content_hash`` spares hashing when the receiver has done it already.

    ``header`` holds at most ``MAX_HEADER_BYTES``, as it is kept in the database row: of a longer block
    (``structure.body_start`` tells) the rest has to be read from the body.
    """
    source = data if isinstance(data, bytes | mmap.mmap) else bytes(data)
    root = scan(source)
    header = source[: min(root.body_start, MAX_HEADER_BYTES)]
    return Content(
        hash=ContentHash(hashlib.sha256(source).digest()) if content_hash is None else content_hash,
        size_bytes=len(source),
        header=header,
        envelope=encode_envelope(parse_envelope(header)),
        structure=encode_structure(root),
    )
