"""Annotations as this node takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.annotations import ADMIN, COMMENT
from storage.annotations import AnnotationLimits

if TYPE_CHECKING:
    from .config import Metadata


def annotation_limits(options: Metadata) -> AnnotationLimits:
    return AnnotationLimits(
        entry_bytes=options.max_entry_size_bytes,
        mailbox_entries=options.max_entries_per_mailbox,
        server_entries=options.max_entries_per_server,
        total_bytes=options.max_total_size_bytes,
    )


def server_annotations(options: Metadata) -> dict[str, bytes]:
    """What the configuration says of the server."""
    said = {COMMENT: options.server_comment, ADMIN: options.server_admin}
    return {entry: text.encode("utf-8") for entry, text in said.items() if text}
