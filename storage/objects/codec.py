"""The one encoding of a content: the same bytes in staging rows, staging files, cache files and objects.

Layout, all numbers big-endian::

    header   magic "SORB", version 1, flags 1 (bit 0: sealed), key id 8 (zeros: plain), plaintext size 8
    frame    word 4 (bit 31: compressed; rest: payload length), check 4, payload
    ...      one frame for every 256 KiB of plaintext; an empty content has one empty frame

The payload is the plaintext of the frame, as zstd where that is smaller. In a sealed content it is
``nonce 12 | ciphertext | tag 16`` (AES-256-GCM) and ``check`` is 0; in a plain one ``check`` is the
CRC-32 of the payload, so that one frame of a large body can be read and trusted without the others.

Invariants: the size in the header fixes the number of frames and the plaintext size of each, so nothing
can be cut off or appended unnoticed and a decompressor never makes more than 256 KiB at a time. The
additional data of a sealed frame binds header, content hash, frame number and frame word: frames cannot
be swapped, reordered, or moved to another content. Whatever is wrong with the bytes is ``Corrupt``.

Reading does not depend on the writing options: plain and sealed contents of every key in the ring can
always be read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.errors import Corrupt
from storage.model import Buffer, ContentHash

Source: TypeAlias = Buffer | mmap.mmap

FRAME_BYTES = 256 * 1024  # a staging row, a piece of a stream, a unit of random access
MAGIC = b"SORB"
VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
HEADER = struct.Struct(f">4sBB{KEY_ID_BYTES}sQ")
FRAME_HEAD = struct.Struct(">II")
NONCE_BYTES = 12  # NIST SP 800-38D §8.2.2: random 96-bit nonces, sound up to 2**32 frames a key
TAG_BYTES = 16
MAX_PAYLOAD_BYTES = FRAME_BYTES + NONCE_BYTES + TAG_BYTES
MAX_FRAME_BYTES = FRAME_HEAD.size + MAX_PAYLOAD_BYTES
MAX_CONTENT_BYTES = 1 << 40  # a header that says more is damaged
COMPRESSED = 1 << 31
SEALED = 1
NO_KEY = bytes(KEY_ID_BYTES)
# Mail text of 20 KB: level 1 takes 50 us, level 3 65 us for 2 % less.
ZSTD_LEVEL = 1
MIN_COMPRESS_BYTES = 128  # below, zstd's own framing eats the gain


def key_id(key: bytes) -> bytes:
    """Names a key without giving anything of it away."""
    return hashlib.sha256(b"sora body key id\0" + key).digest()[:KEY_ID_BYTES]


class KeyRing:
    """The keys of this cluster: ``current`` seals (None: write plain), all of them open."""

    def __init__(self, current: bytes | None, readable: Sequence[bytes] = ()) -> None:
        keys = [*([current] if current is not None else []), *readable]
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a body key is {KEY_BYTES} bytes")
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.current_id = key_id(current) if current is not None else None

    def cipher(self, of: bytes) -> AESGCM | None:
        return self._ciphers.get(of)


class Header(NamedTuple):
    """What the first bytes of an encoded content say."""

    raw: bytes
    is_sealed: bool
    key_id: bytes
    size_bytes: int

    @property
    def frames(self) -> int:
        return max(1, -(-self.size_bytes // FRAME_BYTES))

    def plain_bytes(self, index: int) -> int:
        """Plaintext size of one frame."""
        return min(FRAME_BYTES, self.size_bytes - index * FRAME_BYTES)


def parse_header(data: Buffer) -> Header:
    """From the first HEADER.size bytes. Raises Corrupt."""
    if len(data) < HEADER.size:
        raise Corrupt(f"encoded body of {len(data)} bytes has no header")
    magic, version, flags, kid, size = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or flags & ~SEALED:
        raise Corrupt("not an encoded body, or of an unknown version")
    if size > MAX_CONTENT_BYTES or (kid != NO_KEY) != bool(flags & SEALED):
        raise Corrupt("header of encoded body contradicts itself")
    return Header(bytes(data[: HEADER.size]), bool(flags & SEALED), kid, size)


def parse_frame_head(data: Buffer) -> tuple[int, int]:
    """(frame word, payload length) from the FRAME_HEAD at the start of ``data``. Raises Corrupt."""
    word = FRAME_HEAD.unpack_from(data)[0]
    length = word & ~COMPRESSED
    if length > MAX_PAYLOAD_BYTES:
        raise Corrupt(f"frame of {length} bytes, more than {MAX_PAYLOAD_BYTES}")
    return word, length


class _Zstd(threading.local):
    """Contexts are costly to make and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


@dataclass(frozen=True, slots=True)
class _Seal:
    """How one content's frames are sealed."""

    cipher: AESGCM
    header: bytes
    content_hash: bytes

    def aad(self, index: int, word: int) -> bytes:
        return self.header + self.content_hash + struct.pack(">II", index, word)


class Codec:
    """Encodes and decodes contents; safe to use from several threads."""

    def __init__(self, keys: KeyRing | None = None, *, compress: bool = True) -> None:
        self._keys = keys or KeyRing(None)
        self._compress = compress
        self._zstd = _Zstd()

    # --- encoding ---

    def encode(self, data: Source, content_hash: ContentHash) -> list[bytes]:
        """One element a frame, the first with the header in front. About 90 us for 20 KB of text."""
        return list(self.encode_iter(data, content_hash))

    def encode_iter(self, data: Source, content_hash: ContentHash) -> Iterator[bytes]:
        size = len(data)
        kid = self._keys.current_id
        raw = HEADER.pack(MAGIC, VERSION, SEALED if kid else 0, kid or NO_KEY, size)
        seal = self._seal(Header(raw, kid is not None, kid or NO_KEY, size), content_hash)
        lead = raw
        with memoryview(data) as view:
            for index in range(max(1, -(-size // FRAME_BYTES))):
                piece = view[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
                yield lead + self._encode_frame(piece, index, seal)
                piece.release()
                lead = b""

    def _encode_frame(self, piece: memoryview, index: int, seal: _Seal | None) -> bytes:
        payload: Buffer = piece
        flag = 0
        if self._compress and len(piece) >= MIN_COMPRESS_BYTES:
            packed = self._zstd.compressor.compress(piece)
            if len(packed) < len(piece):
                payload, flag = packed, COMPRESSED
        if seal is None:
            return FRAME_HEAD.pack(len(payload) | flag, zlib.crc32(payload)) + payload
        word = (len(payload) + NONCE_BYTES + TAG_BYTES) | flag
        nonce = os.urandom(NONCE_BYTES)
        sealed = seal.cipher.encrypt(nonce, payload, seal.aad(index, word))
        return FRAME_HEAD.pack(word, 0) + nonce + sealed

    # --- decoding ---

    def decode_all(self, blob: Buffer, content_hash: ContentHash) -> bytes:
        """The whole content, checked against its hash. Raises Corrupt."""
        decoder = self.decoder(content_hash)
        pieces = decoder.feed(blob)
        decoder.finish()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def decoder(self, content_hash: ContentHash) -> Decoder:
        return Decoder(self, content_hash)

    def frame_opener(self, header: Header, content_hash: ContentHash) -> FrameOpener:
        """Raises Corrupt when the content is sealed with a key this ring does not have."""
        return FrameOpener(header, self._seal(header, content_hash), self._zstd)

    def _seal(self, header: Header, content_hash: ContentHash) -> _Seal | None:
        if not header.is_sealed:
            return None
        cipher = self._keys.cipher(header.key_id)
        if cipher is None:
            raise Corrupt(f"body is sealed with key {header.key_id.hex()}, which is not configured")
        return _Seal(cipher, header.raw, content_hash)


class FrameOpener:
    """Opens single frames of one content."""

    def __init__(self, header: Header, seal: _Seal | None, zstd: _Zstd) -> None:
        self.header = header
        self._seal = seal
        self._zstd = zstd

    def open(self, index: int, frame: Buffer) -> bytes:
        """``frame`` is exactly one frame with its head. Raises Corrupt."""
        word, length = parse_frame_head(frame)
        if FRAME_HEAD.size + length != len(frame):
            raise Corrupt(f"frame {index} is cut short")
        payload = memoryview(frame)[FRAME_HEAD.size :]
        opened = self._unseal(index, word, FRAME_HEAD.unpack_from(frame)[1], payload)
        plain = self._unpack(index, opened) if word & COMPRESSED else bytes(opened)
        if len(plain) != self.header.plain_bytes(index):
            raise Corrupt(f"frame {index} has {len(plain)} bytes of plaintext")
        return plain

    def _unseal(self, index: int, word: int, check: int, payload: memoryview) -> Buffer:
        if self._seal is None:
            if zlib.crc32(payload) != check:
                raise Corrupt(f"frame {index} is damaged")
            return payload
        if check != 0 or len(payload) < NONCE_BYTES + TAG_BYTES:
            raise Corrupt(f"frame {index} is not sealed")
        try:
            return self._seal.cipher.decrypt(
                payload[:NONCE_BYTES], payload[NONCE_BYTES:], self._seal.aad(index, word)
            )
        except InvalidTag as error:
            raise Corrupt(f"frame {index} is damaged or not of this content") from error

    def _unpack(self, index: int, packed: Buffer) -> bytes:
        expected = self.header.plain_bytes(index)
        try:
            # the size zstd declares is what it allocates, so it is checked first
            if zstandard.frame_content_size(packed) != expected:
                raise Corrupt(f"frame {index} would not unpack to {expected} bytes")
            return self._zstd.decompressor.decompress(packed, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Corrupt(f"frame {index} cannot be unpacked") from error


class Decoder:
    """Encoded bytes in pieces of any size to checked plaintext frames.

    A piece that ``feed`` returns has passed its own check; only ``finish`` vouches for the whole.
    Holds at most one frame.
    """

    def __init__(self, codec: Codec, content_hash: ContentHash) -> None:
        self._codec = codec
        self._hash = content_hash
        self._digest = hashlib.sha256()
        self._opener: FrameOpener | None = None
        self._next = 0
        self._rest = b""

    @property
    def header(self) -> Header | None:
        """Known once enough was fed."""
        return self._opener.header if self._opener else None

    def feed(self, data: Buffer) -> list[bytes]:
        """Plaintext of the frames that ``data`` completes. Raises Corrupt."""
        buffer: Buffer = self._rest + bytes(data) if self._rest else data
        view = memoryview(buffer)
        at = 0
        if self._opener is None:
            if len(view) < HEADER.size:
                self._rest = bytes(view)
                return []
            self._opener = self._codec.frame_opener(parse_header(view), self._hash)
            at = HEADER.size
        return self._frames(self._opener, view, at)

    def _frames(self, opener: FrameOpener, view: memoryview, at: int) -> list[bytes]:
        pieces: list[bytes] = []
        while len(view) - at >= FRAME_HEAD.size and self._next < opener.header.frames:
            length = FRAME_HEAD.size + parse_frame_head(view[at:])[1]
            if len(view) - at < length:
                break
            plain = opener.open(self._next, view[at : at + length])
            self._digest.update(plain)
            pieces.append(plain)
            self._next += 1
            at += length
        self._rest = bytes(view[at:])
        if self._rest and self._next == opener.header.frames:
            raise Corrupt("bytes after the last frame")
        return pieces

    def finish(self) -> None:
        """Raises Corrupt unless exactly one whole content with the expected hash was fed."""
        if self._opener is None or self._rest or self._next != self._opener.header.frames:
            raise Corrupt("encoded body is cut short")
        if self._digest.digest() != self._hash:
            raise Corrupt("body does not match its hash")
