"""FETCH responses of many messages at once: values column by column into one format string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from storage.mime.envelope import decode_envelope
from storage.mime.structure import decode_structure
from storage.model import Flags, MessageRow, SystemFlag

from . import render
from .bodyparts import cut, own_header, string
from .items import BodyItem, Item, RowItem, ViewItem
from .responses import flag_list

if TYPE_CHECKING:
    from .columns import Messages
    from .session import ImapSession

_FORMATS: Final = {
    ViewItem.FLAGS: b"FLAGS %b",
    ViewItem.UID: b"UID %d",
    ViewItem.INTERNALDATE: b"INTERNALDATE %b",
    ViewItem.SIZE: b"RFC822.SIZE %d",
    ViewItem.MODSEQ: b"MODSEQ (%d)",
}
_FLAG_LISTS: Final = tuple(flag_list(Flags(SystemFlag(bits))) for bits in range(32))
_NO_KEYWORDS: Final[frozenset[str]] = frozenset()


class FetchLines:
    """Values for a few messages and, where items need them, their rows in the same order.

    Looks at the view's arrays: nothing may be awaited while it lives.
    """

    def __init__(self, session: ImapSession, messages: Messages, rows: Sequence[MessageRow] = ()) -> None:
        self._view = session.view
        self._shows_recent = not session.rev2
        self._utf8 = session.utf8
        self._messages = messages
        self._rows = rows

    def beginnings(self, items: Sequence[Item]) -> list[bytes]:
        """``* n FETCH (`` and the items, without the closing parenthesis."""
        template = b"* %d FETCH (" + b" ".join([_format(item) for item in items])
        columns = [self._messages.seqs, *(self._column(item) for item in items)]
        return [template % values for values in zip(*columns, strict=True)]

    def _column(self, item: Item) -> Sequence[Any]:
        if isinstance(item, ViewItem):
            return _VIEW_COLUMNS[item](self)
        if isinstance(item, RowItem):
            return _ROW_COLUMNS[item](self)
        assert isinstance(item, BodyItem)
        section, partial = item.section, item.partial
        return [string(cut(own_header(row, section), partial)) for row in self._rows]

    # --- from the view ---

    def flags(self) -> list[bytes]:
        """Parenthesised. Keywords and ``\\Recent`` are rare and put in afterwards."""
        view, uids = self._view, self._messages.uids
        bits = self._messages.pick(view.shared.flags)
        names = [_FLAG_LISTS[value] for value in bits]
        keywords = view.shared.keywords
        has_recent = self._shows_recent and view.is_recent(uids[-1])
        if keywords or has_recent:
            for position, uid in enumerate(uids):
                words = keywords.get(uid, _NO_KEYWORDS)
                recent = has_recent and view.is_recent(uid)
                if words or recent:
                    names[position] = flag_list(Flags(SystemFlag(bits[position]), words), recent=recent)
        return names

    def uids(self) -> Sequence[int]:
        return self._messages.uids

    def internaldates(self) -> list[bytes]:
        return [render.internaldate(seconds) for seconds in self._messages.pick(self._view.shared.dates)]

    def sizes(self) -> Sequence[int]:
        return self._messages.pick(self._view.shared.sizes)

    def modseqs(self) -> Sequence[int]:
        return self._messages.pick(self._view.shared.modseqs)

    # --- from the rows ---

    def envelopes(self) -> list[bytes]:
        utf8 = self._utf8
        return [render.envelope(decode_envelope(row.envelope), utf8=utf8) for row in self._rows]

    def structures(self, *, extended: bool) -> list[bytes]:
        utf8 = self._utf8
        return [
            render.body(decode_structure(row.structure), extended=extended, utf8=utf8) for row in self._rows
        ]


_VIEW_COLUMNS: Final[dict[ViewItem, Callable[[FetchLines], Sequence[Any]]]] = {
    ViewItem.FLAGS: FetchLines.flags,
    ViewItem.UID: FetchLines.uids,
    ViewItem.INTERNALDATE: FetchLines.internaldates,
    ViewItem.SIZE: FetchLines.sizes,
    ViewItem.MODSEQ: FetchLines.modseqs,
}
_ROW_COLUMNS: Final[dict[RowItem, Callable[[FetchLines], Sequence[Any]]]] = {
    RowItem.ENVELOPE: FetchLines.envelopes,
    RowItem.BODY: lambda lines: lines.structures(extended=False),
    RowItem.BODYSTRUCTURE: lambda lines: lines.structures(extended=True),
}


def _format(item: Item) -> bytes:
    """``%`` format of name and value."""
    if isinstance(item, ViewItem):
        return _FORMATS[item]
    return label_of(item).replace(b"%", b"%%") + b" %b"


def label_of(item: Item) -> bytes:
    return item.value if isinstance(item, ViewItem | RowItem) else item.label
