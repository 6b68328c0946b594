"""One IMAP connection: who it is, what it selected, and how its commands are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import responses
from .registry import State

if TYPE_CHECKING:
    from protocols.ports import Connection, Identity, ServerPolicy, Services

    from .view import SessionView, Updates

IMAP4REV2: Final = b"IMAP4REV2"
UTF8_ACCEPT: Final = b"UTF8=ACCEPT"
CONDSTORE: Final = b"CONDSTORE"


class ImapSession:
    """What commands work on. ``send`` queues whole untagged lines; the tagged reply is the dispatcher's."""

    def __init__(
        self, connection: Connection, send: Callable[[bytes], None], services: Services, policy: ServerPolicy
    ) -> None:
        self.connection = connection
        self.services = services
        self.policy = policy
        self.send = send
        self.identity: Identity | None = None
        self.selected: SessionView | None = None
        self.enabled: set[bytes] = set()  # upper case, as ENABLE named them

    @property
    def state(self) -> State:
        if self.identity is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self.selected is None else State.SELECTED

    @property
    def view(self) -> SessionView:
        """The selected mailbox; only for commands that are allowed in the selected state alone."""
        assert self.selected is not None
        return self.selected

    @property
    def utf8(self) -> bool:
        """Whether names and strings are UTF-8 in both directions (RFC 6855 §3, RFC 9051 §5.1)."""
        return UTF8_ACCEPT in self.enabled or IMAP4REV2 in self.enabled

    @property
    def rev2(self) -> bool:
        """IMAP4rev2 was enabled: no RECENT, ESEARCH instead of SEARCH."""
        return IMAP4REV2 in self.enabled

    def enable_condstore(self) -> None:
        """A CONDSTORE-enabling command was given (RFC 7162 §3.1)."""
        self.enabled.add(CONDSTORE)
        if self.selected is not None:
            self.selected.condstore = True

    def write_updates(self, updates: Updates, *, with_uid: bool) -> None:
        """Write what ``SessionView.sync`` returned, in its order."""
        for seq in updates.expunged:
            self.send(responses.expunge(seq))
        if updates.exists is not None:
            self.send(responses.exists(updates.exists))
            if updates.recent is not None and not self.rev2:
                self.send(responses.recent(updates.recent))
        view = self.view
        for seq, state in updates.changed:
            self.send(
                responses.fetch_flags(
                    seq,
                    state.flags,
                    recent=view.is_recent(state.uid) and not self.rev2,
                    uid=state.uid if with_uid or view.condstore else None,
                    modseq=state.modseq if view.condstore else None,
                )
            )
