"""The columns of an opened mailbox, packed: 40 bytes a message and no object for any of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .model import Flags, Mailbox, MessageState, ModSeq, SystemFlag, Uid

_NO_KEYWORDS: frozenset[str] = frozenset()


def _column() -> array[int]:
    return array("q")


@dataclass(slots=True)
class LoadedView:
    """``storage.api.MailboxView``."""

    mailbox: Mailbox
    uids: array[int] = field(default_factory=_column)
    modseqs: array[int] = field(default_factory=_column)
    flags: array[int] = field(default_factory=_column)
    sizes: array[int] = field(default_factory=_column)
    internaldates: array[int] = field(default_factory=_column)
    keywords: Mapping[int, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, mailbox: Mailbox, states: Iterable[MessageState]) -> LoadedView:
        """``states`` ascending by uid."""
        view = cls(mailbox)
        keywords: dict[int, frozenset[str]] = {}
        for state in states:
            view.uids.append(state.uid)
            view.modseqs.append(state.modseq)
            view.flags.append(int(state.flags.system))
            view.sizes.append(state.size_bytes)
            view.internaldates.append(state.internaldate)
            if state.flags.keywords:
                keywords[state.uid] = state.flags.keywords
        view.keywords = keywords
        return view

    def states(self) -> tuple[MessageState, ...]:
        return tuple(
            MessageState(
                Uid(uid),
                ModSeq(modseq),
                Flags(SystemFlag(flags), self.keywords.get(uid, _NO_KEYWORDS)),
                size,
                internaldate,
            )
            for uid, modseq, flags, size, internaldate in zip(
                self.uids, self.modseqs, self.flags, self.sizes, self.internaldates, strict=True
            )
        )
