"""Which sizes an encoded body can have."""

from __future__ import annotations

from storage.objects.codec import FRAME_BYTES, FRAME_HEAD, HEADER, NONCE_BYTES, TAG_BYTES


def is_possible(encoded_bytes: int, plain_bytes: int) -> bool:
    """Compression only makes frames smaller, so there is a largest size; and each frame has its head."""
    frames = max(1, -(-plain_bytes // FRAME_BYTES))
    least = HEADER.size + frames * FRAME_HEAD.size
    most = least + plain_bytes + frames * (NONCE_BYTES + TAG_BYTES)
    return least <= encoded_bytes <= most
