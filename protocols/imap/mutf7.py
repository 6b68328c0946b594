"""Modified UTF-7, the mailbox name encoding of IMAP4rev1 (RFC 3501 §5.1.3).

Decoding is strict: what ``decode`` accepts, ``encode`` gives back unchanged, so that one mailbox has one
name on the wire.
"""

from __future__ import annotations

import binascii
import re

_SHIFTED = re.compile(rb"&([A-Za-z0-9+,]*)-")
_ENCODED_RUN = re.compile(r"[^\x20-\x25\x27-\x7e]+")


def _encode_run(match: re.Match[str]) -> str:
    if match[0] == "&":
        return "&-"
    # a run may contain ampersands beside other characters only one at a time: "&" is always "&-"
    pieces = []
    for piece in re.split("(&)", match[0]):
        if piece == "&":
            pieces.append("&-")
        elif piece:
            raw = binascii.b2a_base64(piece.encode("utf-16-be", "surrogatepass"), newline=False)
            pieces.append("&" + raw.rstrip(b"=").replace(b"/", b",").decode() + "-")
    return "".join(pieces)


def encode(name: str) -> bytes:
    """The name in modified UTF-7; plain ASCII stays as it is."""
    return _ENCODED_RUN.sub(_encode_run, name).encode("ascii")


def _decode_run(raw: bytes) -> str:
    if not raw:
        return "&"
    padded = raw.replace(b",", b"/") + b"=" * (-len(raw) % 4)
    try:
        return binascii.a2b_base64(padded, strict_mode=True).decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("not modified UTF-7") from error


def decode(data: bytes) -> str:
    """The inverse of encode. Raises ValueError for anything encode would not have written."""
    pieces: list[str] = []
    position = 0
    for match in _SHIFTED.finditer(data):
        pieces.append(data[position : match.start()].decode("ascii"))
        pieces.append(_decode_run(match[1]))
        position = match.end()
    pieces.append(data[position:].decode("ascii"))
    name = "".join(pieces)
    if encode(name) != data:
        raise ValueError("not modified UTF-7")
    return name
