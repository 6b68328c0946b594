"""What sessions need from the node, as contracts. ``node`` builds the concrete objects.

The pump (``protocols.driver``) connects four things: a transport, a *machine* (pure: bytes to events,
replies to bytes), a *session* (runs one event at a time against the ports) and this module's ports.
"""

from __future__ import annotations

import enum
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from storage.api import AccountStore, BodySource, Intake, MailStore
from storage.dsn import NO_REQUEST, DsnRequest
from storage.model import AccountId, Mailbox, MailboxId, ModSeq, Uid
from storage.sending import HandoverLog

from .memory import NodeMemory
from .messageevents import MessageEvents

if TYPE_CHECKING:
    from .annotations import Annotations
    from .filtering import MailFilter
    from .sending.sending import Sending

# --- identity -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of one connection, as all limits, logs and registries see it.

    Behind a load balancer that speaks the PROXY protocol, ``ip`` is the client's and ``via_ip`` the
    balancer's.
    """

    ip: str
    port: int
    local_ip: str = ""
    local_port: int = 0
    via_ip: str = ""
    ja4: str = ""  # fingerprint of the TLS client; "" when unknown or not TLS (yet)
    sni: str = ""  # lower case
    proxy_session: str = ""  # session id on our own proxy, for the log

    @property
    def is_loopback(self) -> bool:
        """From this machine; the address of a Unix socket is empty. What a balancer tells of is not: its
        client's bytes crossed some network before they came here."""
        if self.via_ip:
            return False
        if not self.ip:
            return True
        try:
            address = ipaddress.ip_address(self.ip.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated user."""

    account_id: AccountId
    address: str  # the credential used
    primary_address: str


class Authenticator(Protocol):
    async def authenticate(
        self, protocol: str, peer: Peer, username: str, password: bytes, session_id: str = ""
    ) -> Identity:
        """Cost and reply are the same for every failure. ``session_id`` is for the log.

        Raises:
            AuthenticationFailed: the credentials do not open an account.
            AuthenticationUnavailable: it could not be decided now; says nothing about the password.
        """
        ...


class Admission(Protocol):
    """Who may connect. Asked as soon as the client's address is known, before anything else is spent."""

    def refuses(self, peer: Peer) -> bool:
        """Whether this client is turned away now. Costs microseconds, never blocks."""
        ...


# --- changes --------------------------------------------------------------------------------------


# In place of a mailbox: what the account itself says has changed, its Sieve scripts for instance.
SETTINGS = MailboxId(2**63 - 1)


@dataclass(frozen=True, slots=True)
class MailboxChanged:
    """A hint that a commit moved a mailbox to this modseq; losing it costs seconds, never mail.

    ``modseq`` 0: the mailbox was created, deleted or renamed. ``SETTINGS`` go to all nodes, whether there are
    sessions of the account or not.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    modseq: ModSeq


class ChangeFeed(Protocol):
    """Commit, then publish, then speak."""

    def publish(self, change: MailboxChanged) -> None:
        """Reaches subscribers of this process before it returns or on the next loop turn, those of other
        processes soon after. Never blocks, never raises."""
        ...

    def subscribe(
        self, mailbox_id: MailboxId, listener: Callable[[MailboxChanged], None]
    ) -> Callable[[], None]:
        """Calls ``listener`` on the loop thread for each change; returns the unsubscriber."""
        ...


# --- maildrop lock ---------------------------------------------------------------------------------


class MaildropLock(Protocol):
    """The exclusive access lock of POP3 (RFC 1939 §4): one session per maildrop."""

    async def acquire(self, account_id: AccountId) -> Callable[[], None] | None:
        """The release function, harmless when called twice; None while another session holds the lock."""
        ...


# --- counting --------------------------------------------------------------------------------------


class Instruments(Protocol):
    """Counts what the sessions of one server do. Called for every command: cheap, never waits or raises.

    Names and results come from tables of this program, never from the peer, so there are few of them.
    """

    def command_ended(self, name: bytes, status: bytes, work_s: float) -> None:
        """``name`` and ``status`` are as on the wire, in upper case; of LMTP replies the class: ``2XX``.
        ``work_s`` is what ``Connection.take_work_s`` said: 0.0 when there was nothing to wait for."""
        ...

    def delivered(self, result: str) -> None:
        """One recipient of one message was answered: ``2xx``, ``4xx`` or ``5xx``."""
        ...

    def message_in(self, size_bytes: int) -> None:
        """A message was stored (once, whatever the number of its recipients)."""
        ...


class NoInstruments:
    """Counts nothing."""

    def command_ended(self, name: bytes, status: bytes, work_s: float) -> None: ...

    def delivered(self, result: str) -> None: ...

    def message_in(self, size_bytes: int) -> None: ...


UNKNOWN_COMMAND = b"UNKNOWN"  # the name of what is no command, or may not be given now


# --- who is connected ------------------------------------------------------------------------------


class Goodbye(enum.Enum):
    """Why this side ends a session. Each protocol has its words for every one."""

    SHUTDOWN = "the node stops"
    EXPIRED = "it lasted longer than absolute_session_timeout"
    TOO_SLOW = "the client sends slower than min_bytes_per_minute"
    KICKED = "an administrator ended it"


class Registered(Protocol):
    """A connection as the registry sees it (``driver.LineConnection``). Values are read when asked for."""

    peer: Peer
    session_id: str
    has_tls: bool
    bytes_in: int
    bytes_out: int

    @property
    def is_active(self) -> bool:
        """A command runs, or the client is in the middle of sending one."""
        ...

    def say_goodbye(self, why: Goodbye, within_s: float | None = None) -> None:
        """Between commands, with ``session.on_goodbye``; aborted when that takes longer than ``within_s``."""
        ...


class SessionRegistry(Protocol):
    """Who is connected. The driver tells of every connection once when it opens and once when it is gone."""

    def opened(self, connection: Registered, protocol: str, server: str) -> None: ...

    def closed(self, connection: Registered) -> None:
        """Harmless when it is not registered."""
        ...

    def readdressed(self, session_id: str, peer: Peer) -> None:
        """A proxy that is trusted has told who the client is (XCLIENT): its connection has this ``peer``."""
        ...

    async def logged_in(self, session_id: str, identity: Identity) -> None:
        """Before the session tells the client that the login succeeded. Raises TooManySessions."""
        ...

    def logged_out(self, session_id: str) -> None:
        """The connection goes on without a user (UNAUTHENTICATE). Harmless when there is none."""
        ...

    def client_named(self, session_id: str, name: str, version: str) -> None:
        """What the client says of itself (IMAP ID); foreign words."""
        ...


class Unregistered:
    """``SessionRegistry`` that keeps nothing and refuses nobody."""

    def opened(self, connection: Registered, protocol: str, server: str) -> None:
        return

    def closed(self, connection: Registered) -> None:
        return

    def readdressed(self, session_id: str, peer: Peer) -> None:
        return

    async def logged_in(self, session_id: str, identity: Identity) -> None:
        return

    def logged_out(self, session_id: str) -> None:
        return

    def client_named(self, session_id: str, name: str, version: str) -> None:
        return


# --- mail that goes out ----------------------------------------------------------------------------


class MailKind(enum.Enum):
    """What a message that leaves is; for figures, the queue's list and its log lines."""

    REDIRECT = "redirect"
    VACATION = "vacation"
    NOTIFY = "notify"
    REJECT = "reject"
    BOUNCE = "bounce"
    REPORT = "report"  # of success, to who asked for it


class Outbox(Protocol):
    """Mail to other systems, by the relay."""

    async def submit(
        self,
        envelope_from: str,
        recipients: Sequence[str],
        message: bytes | Sequence[bytes],
        *,
        kind: MailKind,
        account: AccountId | None,
        key: bytes = b"",
        dsn: DsnRequest = NO_REQUEST,
        held_s: float = 0.0,
    ) -> str:
        """Take over a message: durable when this returns, and from then on relayed or bounced once.

        ``envelope_from`` is without angle brackets; empty is the null path, whose mail is never bounced.
        ``message`` is the whole message with CRLF line ends, or its pieces in order. ``account`` is the one
        on whose behalf it goes, None for the node itself. Submissions with the same ``key`` (any bytes that
        name the message and its cause) are one as long as the first is still queued. ``dsn``: what the
        sender wants to be told (RFC 3461), when the message is somebody's who said so.

        ``held_s``, for who may be told to send it again, here or on another node: it is queued under a name
        of its own each time, and not relayed before ``storage.sending.HandoverLog`` says that this copy is
        the one to go. Claim it by ``key`` and the name that returns, then ``release`` or ``withdraw`` it;
        what is left after ``held_s`` is claimed by who empties the queue. It needs ``account`` and ``key``.
        Cost: one file, two fsyncs. Returns the name under which the queue lists it.

        Raises:
            StagingFull: no room; nothing was taken.
            Unavailable: the spool cannot be written now; nothing was taken.
            InvalidName: no recipient, or an address that no SMTP command may carry.
        """
        ...

    async def release(self, name: str) -> None:
        """Relay what was held, now. Harmless when it is gone. Never raises: at worst it goes later."""
        ...

    async def withdraw(self, name: str) -> None:
        """Another copy of what was held goes: drop this one. Never raises: at worst it lies there until its
        time."""
        ...


# --- mailboxes beside the user's own ---------------------------------------------------------------


class Namespace(Protocol):
    """Mailboxes that ``Services.mail`` knows by name and does not list; read-only."""

    @property
    def root(self) -> str:
        """Their common parent, which is no mailbox itself."""
        ...

    async def mailboxes(self, account_id: AccountId) -> tuple[Mailbox, ...]: ...


# --- spam training ---------------------------------------------------------------------------------


class SpamTrainer(Protocol):
    """Learns from what users move."""

    async def moved(
        self,
        user: Identity,
        source: Mailbox,
        target: Mailbox,
        uids: Sequence[Uid],
        *,
        within_s: float | None = None,
    ) -> None:
        """Messages are in ``target`` now, under these uids, and were, or still are, in ``source``.

        Never raises for what goes wrong with teaching. Returns at once, or when the site wants users to wait
        for the filter, after ``within_s`` at most.
        """
        ...


# --- sessions -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Services:
    """Everything a session may reach. One object per node, shared by all its sessions."""

    mail: MailStore
    accounts: AccountStore
    bodies: BodySource
    intake: Intake
    feed: ChangeFeed
    authenticator: Authenticator
    warm_up: Callable[[Identity], None] = lambda _identity: None  # local_cache.enable_warmup
    sessions: SessionRegistry = field(default_factory=Unregistered)
    memory: NodeMemory = field(default_factory=NodeMemory)
    filter: MailFilter | None = None  # Sieve; None: all mail is kept
    annotations: Annotations | None = None  # None: there are none (IMAP METADATA)
    events: MessageEvents | None = None  # None: no script hears of what users do (imapsieve)
    outbox: Outbox | None = None  # None: this node has no relay, nothing may leave
    handovers: HandoverLog | None = None  # of what the outbox is given; None: no deliveries are confirmed
    sending: Sending | None = None  # what scripts send; None: redirected mail is kept
    namespaces: Sequence[Namespace] = ()  # beside the one without a prefix
    training: SpamTrainer | None = None


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """The settings of one listening server that its sessions obey."""

    name: str
    hostname: str
    tls_context: Callable[[], ssl.SSLContext | None] = lambda: None  # current one; None: no STARTTLS
    implicit_tls: bool = False
    trusts: Callable[[Peer], bool] = lambda _peer: False  # may say who the client behind it is (XCLIENT)
    insecure_auth: bool = False  # plain-text authentication without TLS (loopback peers may always)
    max_message_bytes: int = 50 * 1024 * 1024
    session_memory_bytes: int = 100 * 1024 * 1024  # in large buffers; 0: no limit but the node's
    # Seconds this side may spend on one command, by its name in upper case; others have no limit.
    command_limits_s: Mapping[str, float] = field(default_factory=dict)
    command_timeout_s: float = 300.0
    auth_idle_timeout_s: float = 120.0
    options: dict[str, Any] = field(default_factory=dict)  # protocol-specific, documented there
    instruments: Instruments = NoInstruments()  # noqa: RUF009  (it has no state)

    def offers_starttls(self, connection: Connection) -> bool:
        return not connection.has_tls and self.tls_context() is not None

    def allows_passwords(self, connection: Connection) -> bool:
        """Whether a password may cross this connection in the form of plain text."""
        return connection.has_tls or self.insecure_auth or connection.peer.is_loopback


class Machine(Protocol):
    """Sans-IO protocol machine, pull style. Feed it anything; it never raises on foreign bytes."""

    def receive_data(self, data: bytes) -> None:
        """``b""`` means the peer closed."""
        ...

    def next_event(self) -> object | None:
        """The next event, or None when more bytes are needed or the machine is paused (after STARTTLS, until
        the session says that TLS is up)."""
        ...

    def data_to_send(self) -> bytes:
        """Takes what has been queued by the session's replies."""
        ...

    def discard_input(self) -> int:
        """Forget what was received and not yet consumed; how many bytes. The driver calls it before a TLS
        handshake: nothing that came in the clear may be executed after it."""
        ...

    @property
    def buffered_bytes(self) -> int:
        """Received and not yet consumed; the driver stops reading above its limit."""
        ...

    @property
    def is_mid_input(self) -> bool:
        """The client has begun a line, a literal or message data and owes the rest; or more is buffered."""
        ...


class Connection(Protocol):
    """What a session may do to its connection; implemented by the driver."""

    peer: Peer
    session_id: str  # in every log line and in replies that report a server bug
    user: str  # who has logged in, for log lines; empty before
    has_tls: bool
    closing: bool

    @property
    def peer_wait_s(self) -> float:
        """Seconds that handlers have waited for the peer to take bytes or to shake hands, until now."""
        ...

    @property
    def log_extra(self) -> dict[str, Any]:
        """``extra=`` of log lines about this connection: session, ip, protocol, server, user."""
        ...

    def flush(self) -> None:
        """Hand the machine's queued output to the transport now."""
        ...

    async def drain(self) -> None:
        """Flush, then wait while the transport's buffer is above its high-water mark.

        Raises PeerGone.
        """
        ...

    def write(self, data: bytes) -> None:
        """Flush, then write these bytes as they are (large bodies)."""
        ...

    def drop_early_input(self) -> int:
        """Forget what came behind the command that runs, unread, and count it; how many octets. For STARTTLS:
        somebody in the middle may have put it there."""
        ...

    async def start_tls(self) -> None:
        """Flush, drop what arrived early, shake hands. Raises PeerGone."""
        ...

    def take_work_s(self) -> float:
        """Seconds that coroutine handlers took since the last call, time spent waiting for the peer left out;
        0.0 when there was none."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...

    def set_deadline(self, seconds: float | None) -> None:
        """Idle time after which the session's ``on_timeout`` is called; restarts with every read."""
        ...

    def begin_idle(self) -> None:
        """The client waits for news (IDLE): neither session time nor speed count until ``end_idle``."""
        ...

    def end_idle(self) -> None: ...

    def wake(self) -> None:
        """Ask for ``session.on_wake`` to be called on the loop, between commands."""
        ...


class Session(Protocol):
    """Runs one event at a time. A handler that need not wait returns None and costs no task.

    A handler that may queue more than about 64 KiB is a coroutine and drains in between: the driver
    looks at the transport's buffer only between handlers.
    """

    def on_connect(self) -> Awaitable[None] | None:
        """Greet."""
        ...

    def handle(self, event: object) -> Awaitable[None] | None:
        """Execute one event of the machine; replies go to the machine, the driver flushes."""
        ...

    def on_wake(self) -> Awaitable[None] | None:
        """After ``Connection.wake``; never while a handler runs."""
        ...

    def on_timeout(self) -> None:
        """The idle deadline passed; say goodbye and close."""
        ...

    def on_bug(self, error: Exception) -> None:
        """An unexpected exception escaped a handler; queue the protocol's server-bug reply."""
        ...

    def on_goodbye(self, why: Goodbye) -> None:
        """This side ends the session: say so (BYE, 421) and close. Called between commands."""
        ...

    def on_close(self) -> Awaitable[None] | None:
        """The connection is gone, for whatever reason. Called exactly once, last."""
        ...


SessionFactory = Callable[[Connection], "tuple[Machine, Session]"]
