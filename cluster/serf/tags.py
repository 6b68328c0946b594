"""The tags of a member, as they travel in memberlist's meta field: ff, then a msgpack map of strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgpack

from ..dialect import unpack
from ..errors import PacketRejected, Reason
from ..messages import MAX_META_BYTES

_MAGIC: Final = 0xFF
SORA_TAG: Final = "sora"  # its value: the version of a node; only members with it understand our own messages
EPOCH_TAG: Final = "epoch"
_SOME_VERSION: Final = "1"


def own_tags(tags: Mapping[str, str], epoch: int, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """``tags`` with those that every node of Sora has; the version is that of ``tags``, or of ``before``."""
    version = tags.get(SORA_TAG) or (before or {}).get(SORA_TAG) or _SOME_VERSION
    return {**tags, SORA_TAG: version, EPOCH_TAG: str(epoch)}


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Raises ValueError when they take more than 512 bytes."""
    raw: bytes = b"\xff" + msgpack.packb(dict(sorted(tags.items())), use_bin_type=False)
    if len(raw) > MAX_META_BYTES:
        raise ValueError(f"tags take {len(raw)} bytes, of {MAX_META_BYTES} at most")
    return raw


def decode_tags(meta: bytes) -> dict[str, str]:
    """What has no magic byte is the value of ``role``, as with the first agents. Text that is not UTF-8 is
    kept with replacement characters, since names of tags are for people. Raises PacketRejected."""
    if not meta:
        return {}
    if len(meta) > MAX_META_BYTES:
        raise PacketRejected(Reason.OVERSIZED, "tags")
    if meta[0] != _MAGIC:
        return {"role": meta.decode(errors="replace")}
    raw = unpack(meta[1:], max_items=MAX_META_BYTES)
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(part, bytes) for item in raw.items() for part in item):
        raise PacketRejected(Reason.MALFORMED, "tags")
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in raw.items()}


def is_sora(tags: Mapping[str, str]) -> bool:
    return SORA_TAG in tags
