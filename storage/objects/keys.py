"""Object keys: content-addressed, one life each, no personal data.

A key holds the content's hash and its row id. Row ids are never reused, so when a content is purged and
the same bytes arrive again they get a new key, and a delete that was delayed can only hit the old object.
That is why no lock has to span the database and the object store.
"""

from __future__ import annotations

import re

from storage.model import ContentHash, ContentId

_KEY = re.compile(r"bodies/(?P<shard>[0-9a-f]{2})/(?P<hash>[0-9a-f]{64})\.(?P<id>[0-9a-f]+)")


def object_key(content_hash: ContentHash, content_id: ContentId) -> str:
    digest = content_hash.hex()
    return f"bodies/{digest[:2]}/{digest}.{content_id:x}"


def parse_object_key(key: str) -> tuple[ContentHash, ContentId] | None:
    """None for a key that is not one of ours."""
    match = _KEY.fullmatch(key)
    if match is None or match["hash"][:2] != match["shard"]:
        return None
    return ContentHash(bytes.fromhex(match["hash"])), ContentId(int(match["id"], 16))
