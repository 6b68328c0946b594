"""The whole configuration as one frozen tree."""

from __future__ import annotations

from dataclasses import dataclass

from node.units import Network

from .kinds import NETWORKS, PATH, SIZE, TEXT, whole
from .option import option, repeated, section
from .server import Server
from .services import (
    AdminCli,
    AuthCache,
    Cluster,
    Embedded,
    Logging,
    Metadata,
    Relay,
    RelayQueue,
    SharedMailboxes,
    Sieve,
    SpamTraining,
    TimeoutScheduler,
    Tls,
)
from .storage import S3, Cleanup, Database, LocalCache, Uploader


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told. Every field has a default, so tests may build any part by hand."""

    hostname: str = option(
        TEXT,
        "",
        "Name in greetings and trace headers; the system's host name when empty.",
        shown="mail.example.com",
    )
    user: str = option(
        TEXT,
        "",
        "Account that the node becomes when root starts it, after binding its addresses and reading its keys;"
        " when empty it stays root. Directories that are missing are made for it.",
        shown="sora",
    )
    group: str = option(TEXT, "", "Group of it; the account's own when empty.", shown="sora")
    workers: int = option(
        whole(0, 1024),
        0,
        "Processes that serve clients; 0 is one per CPU. Of the database connections each has its share."
        " With 1 everything runs in one process.",
    )
    memory_limit_bytes: int = option(
        SIZE,
        0,
        "Memory that all sessions of a process together may hold in large buffers; 0 is a quarter of the"
        " machine's, divided by workers. What does not fit is refused for now.",
    )
    bcrypt_cost: int = option(
        whole(10, 14),
        12,
        "Cost of new bcrypt hashes; new passwords are argon2id unless asked otherwise.",
        feature="bcrypt_cost",
    )
    control_socket: str = option(
        PATH,
        "",
        "Unix socket by which sora-admin talks to the running node; only root and the node's own user may."
        " When empty, control.sock beside uploader.path.",
        shown="/run/sora/control.sock",
    )
    trusted_networks: tuple[Network, ...] = option(
        NETWORKS,
        [],
        "Networks of proxies and load balancers that may tell a client's address and are never rate-limited."
        " In the table form of servers this is servers.trusted_networks.",
        shown=["10.0.0.0/8"],
        feature="trusted_networks",
    )
    logging: Logging = section(
        Logging, "Log lines. log_output at the top of the file is short for logging.output."
    )
    database: Database = section(Database, "PostgreSQL, which holds all metadata.")
    s3: S3 = section(S3, "The object store, which holds message bodies.")
    local_cache: LocalCache = section(LocalCache, "A cache of bodies on this node's disk.")
    uploader: Uploader = section(Uploader, "New bodies on their way to the object store.")
    cleanup: Cleanup = section(Cleanup, "What is deleted for good, and when.")
    embedded: Embedded = section(
        Embedded, "Servers the node starts and stops itself; quickstart writes this."
    )
    tls: Tls = section(Tls, "Certificates for all servers.")
    servers: tuple[Server, ...] = repeated(Server, "Listening servers.", aliases=("server",))
    cluster: Cluster = section(Cluster, "Gossip with the other nodes.", feature="cluster")
    auth_cache: AuthCache = section(
        AuthCache, "Verified credentials on disk, for proxies.", feature="auth_cache"
    )
    relay: Relay = section(Relay, "Where redirects and vacation replies go.", feature="relay")
    relay_queue: RelayQueue = section(RelayQueue, "Their queue.", aliases=("relay.queue",), feature="relay")
    spam_training: SpamTraining = section(
        SpamTraining, "Tells a spam filter what users move into and out of Junk.", feature="spam_training"
    )
    metadata: Metadata = section(Metadata, "Limits of annotations (RFC 5464).", feature="metadata")
    shared_mailboxes: SharedMailboxes = section(
        SharedMailboxes, "Mailboxes shared among users (RFC 4314).", feature="shared_mailboxes"
    )
    sieve: Sieve = section(Sieve, "Mail filtering.", feature="sieve")
    admin_cli: AdminCli = section(AdminCli, "How sora-admin reaches a running node.", feature="http_api")
    timeout_scheduler: TimeoutScheduler = section(
        TimeoutScheduler, "The clock of session timeouts; this version has one.", feature="sharded timeouts"
    )
