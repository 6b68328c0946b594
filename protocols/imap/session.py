"""One IMAP session as commands see it: who it is, what it selected, and what it writes.

Commands write no tags and see no sockets; they ``send`` untagged lines and return an outcome, which the
dispatcher (``dispatcher.py``) turns into the tagged reply.

Invariant: sequence numbers change only in ``write_pending``, which runs between commands' data and their
tagged reply, or while the client idles.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from protocols.memory import SessionMemory
from storage.model import Mailbox, Uid

from . import capability, responses
from .presentation import Client, presentation_of
from .registry import CommandTable, ParseContext, State, Tagged

if TYPE_CHECKING:
    from protocols.annotations import Annotations
    from protocols.ports import Connection, Identity, ServerPolicy, Services

    from .fetching import LastRead
    from .machine import ImapMachine
    from .view import SessionView, Updates
    from .views import ViewRegistry

log = logging.getLogger("sora.imap")

IMAP4REV2: Final = b"IMAP4REV2"
UTF8_ACCEPT: Final = b"UTF8=ACCEPT"
CONDSTORE: Final = b"CONDSTORE"
# RFC 9051 §5.4: an autologout timer is at least 30 minutes, once the client has logged in.
MIN_IDLE_S: Final = 1800.0
# Option of ``ServerPolicy``: the ManageSieve server of these mailboxes, ``sieve://host``.
SIEVE_URL: Final = "sieve_url"
NEEDS_ANNOTATIONS: Final = frozenset({b"METADATA", b"METADATA-SERVER"})


class ImapSession:
    """What commands work on. ``send`` queues whole untagged lines; the tagged reply is the dispatcher's."""

    __slots__ = (
        "_filtered_for",
        "_machine",
        "client",
        "connection",
        "contexts",
        "enabled",
        "failed_logins",
        "hidden",
        "identity",
        "is_idling",
        "is_leaving",
        "last_read",
        "memory",
        "policy",
        "presentation",
        "progress",
        "selected",
        "send",
        "services",
        "table",
        "tag",
        "views",
    )

    def __init__(
        self,
        connection: Connection,
        machine: ImapMachine,
        services: Services,
        policy: ServerPolicy,
        views: ViewRegistry,
        table: CommandTable,
    ) -> None:
        self.connection = connection
        self.services = services
        self.policy = policy
        self.views = views
        self.table = table
        self.presentation = presentation_of(policy)
        self.client = Client(ja4=connection.peer.ja4)
        self.hidden: frozenset[bytes] = frozenset()  # capabilities this client is not told of
        self._filtered_for: tuple[str, ...] = ()
        self.send = machine.send
        self.identity: Identity | None = None
        self.selected: SessionView | None = None
        self.enabled: set[bytes] = set()  # upper case, as ENABLE named them
        self.failed_logins = 0
        self.is_idling = False
        self.is_leaving = False  # close the connection after the tagged reply
        self.last_read: LastRead | None = None  # spares partial fetches of one message their reads
        self.memory = SessionMemory(services.memory, policy.session_memory_bytes)
        self.progress: tuple[int, int] | None = None  # of the command that runs: done, of how many
        self.tag = b"*"  # of the command that runs; ESEARCH repeats it
        self.contexts = self._make_contexts()  # of plain and of UID commands
        self._machine = machine
        self._filter()

    # --- facts ---

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
    def user(self) -> Identity:
        """Only for commands that are not allowed before login."""
        assert self.identity is not None
        return self.identity

    @property
    def annotations(self) -> Annotations:
        """Only for commands that are hidden where there are none."""
        assert self.services.annotations is not None
        return self.services.annotations

    @property
    def utf8(self) -> bool:
        """Whether names and strings are UTF-8 in both directions (RFC 6855 §3, RFC 9051 §5.1)."""
        return UTF8_ACCEPT in self.enabled or IMAP4REV2 in self.enabled

    @property
    def rev2(self) -> bool:
        """IMAP4rev2 was enabled: no RECENT, ESEARCH instead of SEARCH."""
        return IMAP4REV2 in self.enabled

    @property
    def may_authenticate(self) -> bool:
        """Whether a password may be sent on this connection as it is."""
        return self.policy.allows_passwords(self.connection)

    def capabilities(self) -> tuple[bytes, ...]:
        has_context = not self.connection.has_tls and self.policy.tls_context() is not None
        now = capability.Circumstances(
            self.state,
            has_context,
            self.may_authenticate,
            self.policy.max_message_bytes,
            self.hidden,
            self.presentation.additional,
            self._sieve_url(),
        )
        return capability.capabilities(self.table, now)

    def _sieve_url(self) -> str:
        """RFC 6785 §2.1: announced where scripts run on events and can be put by ManageSieve."""
        url = self.policy.options.get(SIEVE_URL, "")
        assert isinstance(url, str)
        return url if self.services.events is not None else ""

    # --- what commands change ---

    def enable(self, *names: bytes) -> None:
        self.enabled.update(names)
        self.contexts = self._make_contexts()

    def _make_contexts(self) -> tuple[ParseContext, ParseContext]:
        enabled = frozenset(self.enabled)
        return ParseContext(uid=False, enabled=enabled), ParseContext(uid=True, enabled=enabled)

    def enable_condstore(self) -> None:
        """A CONDSTORE-enabling command was given (RFC 7162 §3.1)."""
        self.enable(CONDSTORE)
        if self.selected is not None:
            self.selected.condstore = True

    def learn(self, **facts: str) -> None:
        """More is known of the client (fields of ``presentation.Client``): filters are applied anew."""
        self.client = replace(self.client, **facts)
        before = self._filtered_for
        self._filter()
        if self._filtered_for != before:
            self.log_filters()

    def shows(self, name: bytes) -> bool:
        """Whether this client is told of a capability; if not, of what comes with it neither."""
        return name not in self.hidden

    def _filter(self) -> None:
        self.hidden, self._filtered_for = self.presentation.hidden_from(self.client)
        if self.services.annotations is None:
            self.hidden |= NEEDS_ANNOTATIONS
        if b"METADATA" in self.hidden:
            self.hidden |= {b"LIST-METADATA"}
        self._machine.takes_unasked_literals = self.shows(b"LITERAL+")

    def log_filters(self) -> None:
        """Why capabilities are hidden from this client."""
        for reason in self._filtered_for:
            log.info("filtered: %s", reason or "no reason given", extra=self.connection.log_extra)

    def log_in(self, identity: Identity) -> None:
        self.identity = identity
        self._machine.is_authenticated = True
        self.expect_commands()
        self.services.warm_up(identity)
        self.connection.user = identity.address
        log.info("logged in", extra=self.connection.log_extra)

    def begin_idle(self, keepalive_s: float) -> None:
        """The client waits for news; ``on_timeout`` is called every so often."""
        self.is_idling = True
        self.connection.begin_idle()
        self.connection.set_deadline(keepalive_s)

    def end_idle(self) -> None:
        self.is_idling = False
        self.connection.end_idle()
        self.expect_commands()

    def expect_commands(self) -> None:
        """From now on a silent client is logged out after a while."""
        self.connection.set_deadline(max(self.policy.command_timeout_s, MIN_IDLE_S))

    def select(self, view: SessionView) -> None:
        self.selected = view

    def unselect(self) -> None:
        """Leave the selected mailbox, if any. Costs nothing, tells the client nothing."""
        view, self.selected = self.selected, None
        self.last_read = None
        if view is None:
            return
        top = Uid(view.uid_at(view.count) + 1) if view.count else Uid(0)
        if not view.read_only and top > max(view.mailbox.recent_uid, view.claimed_recent):
            self.views.claim_recent(view.mailbox.id, top)
        self.views.close(view)

    def reply(self, outcome: Tagged) -> None:
        """Write the tagged reply of the current command now; its outcome must be None then."""
        self.send(responses.tagged(self.tag, outcome.status, outcome.text, outcome.code))

    def leave(self, words: str) -> None:
        """Say BYE and close."""
        self.send(responses.bye(words))
        self.connection.close()

    # --- the selected mailbox ---

    def leave_gone_mailbox(self) -> None:
        """Go back to the authenticated state where the selected mailbox was deleted, and say so."""
        if self.selected is not None and self.selected.shared.is_gone:
            self.unselect()
            self.send(responses.ok("The mailbox was deleted", b"CLOSED"))

    def write_pending(self, *, expunge_allowed: bool, with_uid: bool) -> None:
        """What is new in the selected mailbox, up to what is written at a time."""
        view = self.view
        self.write_new_keywords()
        if view.pending:
            self.write_updates(view.sync(expunge_allowed=expunge_allowed), with_uid=with_uid)

    def write_new_keywords(self) -> None:
        """Before a FETCH response may name a keyword that the client has not heard of."""
        if len(self.view.shared.keyword_names) != self.view.known_keywords:
            self.write_flags()

    def write_flags(self) -> None:
        """FLAGS and PERMANENTFLAGS."""
        view = self.view
        names = [name for _, name in responses.FLAG_NAMES]
        names += [name.encode("ascii", "replace") for name in view.shared.keyword_names.values()]
        view.known_keywords = len(view.shared.keyword_names)
        self.send(responses.flags(names))
        permanent = [] if view.read_only else [*names, b"\\*"]
        words = "Read-only" if view.read_only else "Flags that are kept"
        self.send(responses.ok(words, responses.code_permanentflags(permanent)))

    def write_listing(self, mailbox: Mailbox, named: str) -> None:
        """The LIST response of SELECT, CREATE and RENAME in IMAP4rev2; ``named`` is what it was called.

        Special uses are told, children not, as that would need another read (RFC 9051 §7.3.1).
        """
        extended = b"" if named == mailbox.name else responses.oldname(named, utf8=self.utf8)
        attributes = responses.special_use(mailbox.special_use)
        self.send(responses.listing(b"LIST", attributes, mailbox.name, utf8=self.utf8, extended=extended))

    def write_updates(self, updates: Updates, *, with_uid: bool) -> None:
        """Write what ``SessionView.sync`` returned, in its order."""
        for seq in updates.expunged:
            self.send(responses.expunge(seq))
        if updates.exists is not None:
            self.send(responses.exists(updates.exists))
            if updates.recent is not None and not self.rev2:
                self.send(responses.recent(updates.recent))
        view = self.view
        with_uid = with_uid or view.condstore or self.rev2  # RFC 9051 §7.5.2
        for seq, state in updates.changed:
            self.send(
                responses.fetch_flags(
                    seq,
                    state.flags,
                    recent=view.is_recent(state.uid) and not self.rev2,
                    uid=state.uid if with_uid else None,
                    modseq=state.modseq if view.condstore else None,
                )
            )
