"""Rows to records of ``storage.model``, and the column lists that go with them."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Any

from storage.model import (
    AccountId,
    ContentHash,
    ContentId,
    ContentRef,
    Flags,
    Mailbox,
    MailboxId,
    MessageState,
    ModSeq,
    SpecialUse,
    SystemFlag,
    Uid,
    UidValidity,
)
from storage.view import LoadedView

from .pool import Record

MAILBOX_COLUMNS = """
    m.id, m.account_id, m.name, m.uidvalidity, m.uidnext, m.highestmodseq, m.messages, m.unseen, m.deleted,
    m.size_bytes, m.special_use, m.recent_uid"""

# States as one row of packed columns (big-endian 8-byte integers): a million messages reach Python as five
# byte strings instead of as a million records. ``s`` must come in the order of uids.
PACKED_STATES = """
    coalesce(string_agg(int8send(s.uid), ''), '') AS uids,
    coalesce(string_agg(int8send(s.modseq), ''), '') AS modseqs,
    coalesce(string_agg(int2send(s.flags), ''), '') AS flags,
    coalesce(string_agg(int8send(s.size_bytes), ''), '') AS sizes,
    coalesce(string_agg(int8send(s.internaldate), ''), '') AS internaldates,
    array_agg(s.uid) FILTER (WHERE s.keywords <> '{}') AS keyword_uids,
    array_agg(array_to_string(s.keywords, ' ')) FILTER (WHERE s.keywords <> '{}') AS keyword_lists"""

REF_COLUMNS = """
    c.id AS content_id, c.hash, c.size_bytes AS content_bytes, g.content_id IS NULL AS is_stored,
    g.node AS staged_node"""


def mailbox(row: Record) -> Mailbox:
    use = row["special_use"]
    return Mailbox(
        MailboxId(row["id"]),
        AccountId(row["account_id"]),
        row["name"],
        UidValidity(row["uidvalidity"]),
        Uid(row["uidnext"]),
        ModSeq(row["highestmodseq"]),
        row["messages"],
        row["unseen"],
        row["deleted"],
        row["size_bytes"],
        None if use is None else SpecialUse(use),
        Uid(row["recent_uid"]),
    )


def integers(packed: bytes, typecode: str = "q") -> array[int]:
    column = array(typecode)
    column.frombytes(packed)
    if sys.byteorder == "little":
        column.byteswap()
    return column


def view(of: Mailbox, row: Record) -> LoadedView:
    return LoadedView(
        of,
        integers(row["uids"]),
        integers(row["modseqs"]),
        array("q", integers(row["flags"], "h")),
        integers(row["sizes"]),
        integers(row["internaldates"]),
        keywords_by_uid(row["keyword_uids"], row["keyword_lists"]),
    )


def keywords_by_uid(uids: Sequence[int] | None, lists: Sequence[str] | None) -> dict[int, frozenset[str]]:
    """Equal sets are one object: a mailbox has few distinct ones."""
    if not uids or not lists:
        return {}
    sets = {text: frozenset(text.split(" ")) for text in set(lists)}
    return {uid: sets[text] for uid, text in zip(uids, lists, strict=True)}


def state(row: Record) -> MessageState:
    return MessageState(
        Uid(row["uid"]),
        ModSeq(row["modseq"]),
        Flags(SystemFlag(row["flags"]), frozenset(row["keywords"])),
        row["size_bytes"],
        row["internaldate"],
    )


def ref(row: Record | Any) -> ContentRef:
    return ContentRef(
        ContentId(row["content_id"]),
        ContentHash(row["hash"]),
        row["content_bytes"],
        row["is_stored"],
        row["staged_node"],
    )
