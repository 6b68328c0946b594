"""Sections about the node as a whole and its services beside the protocol servers."""

from __future__ import annotations

from dataclasses import dataclass

from node.units import Address, parse_address
from protocols.sieve.registry import NAMES as SIEVE_EXTENSIONS

from .acme import LetsEncrypt
from .kinds import (
    BOOL,
    COUNT,
    DURATION,
    DURATIONS,
    FIELDS,
    HOST,
    KEY32,
    KEYS32,
    OPTIONAL_BOOL,
    PATH,
    PORT,
    POSITIVE,
    POSITIVE_DURATION,
    REMOTES,
    SECRET,
    SIZE,
    TEXT,
    choice,
    choices,
    duration,
    number,
    whole,
)
from .option import option, section
from .secret import Secret


@dataclass(frozen=True, slots=True)
class Logging:
    """Where log lines go."""

    output: str = option(TEXT, "stderr", '"stderr", "stdout", "syslog" or the path of a file.')
    format: str = option(choice("console", "json"), "console", '"console" for people, "json" for machines.')
    level: str = option(
        choice("debug", "info", "warn", "error", warning="warn"), "info", "debug, info, warn or error."
    )


@dataclass(frozen=True, slots=True)
class Embedded:
    """Servers the node starts, keeps running and stops itself, as quickstart sets them up."""

    postgres_path: str = option(
        PATH,
        "",
        "Data directory of a private PostgreSQL, which database.write then points to; empty starts none.",
    )
    rclone_path: str = option(
        PATH, "", "Directory served as S3 by a private rclone, which s3 then points to; empty starts none."
    )


@dataclass(frozen=True, slots=True)
class AdminCli:
    """How sora-admin reaches a running node."""

    addr: str = option(TEXT, "", "Address of the HTTP API.", shown="http://localhost:8080")
    api_key: Secret[str] = option(SECRET, "", "Its key.")
    insecure_skip_verify: bool | None = option(
        OPTIONAL_BOOL, "", "Accept any certificate; when empty only of a loopback address."
    )
    import_message_limit_bytes: int = option(SIZE, "50mb", "Importers skip larger messages.")


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for all servers. A server's own tls_cert_file and tls_key_file come first."""

    enabled: bool = option(BOOL, False, "Use this section.")
    provider: str = option(choice("file", "letsencrypt"), "file", '"file" or "letsencrypt".')
    cert_file: str = option(
        PATH,
        "",
        "Certificate chain, PEM. Read again when it changes.",
        shown="/etc/sora/cert.pem",
        aliases=("tls_cert_file",),
    )
    key_file: str = option(
        PATH, "", "Its private key, PEM.", shown="/etc/sora/key.pem", aliases=("tls_key_file",)
    )
    serve_expired: bool = option(
        BOOL, True, "Show an expired certificate when there is no other; false refuses TLS for its names."
    )
    unknown_names: str = option(
        choice("default", "refuse"),
        "default",
        'Clients that ask for a name without a certificate are shown the "default" one, or are "refuse"d.',
        feature="letsencrypt",
    )
    letsencrypt: LetsEncrypt = section(
        LetsEncrypt, 'Automatic certificates, for provider = "letsencrypt".', feature="letsencrypt"
    )


@dataclass(frozen=True, slots=True)
class RateLimitSync:
    """Failed logins count for the whole cluster."""

    enabled: bool = option(BOOL, True, "Share what follows with the other nodes.")
    sync_blocks: bool = option(BOOL, True, "An address blocked on one node is blocked on all.")
    sync_failure_counts: bool = option(BOOL, True, "Delays grow with the failures on all nodes.")


@dataclass(frozen=True, slots=True)
class Affinity:
    """A user's connections through proxies go to the same backend."""

    enabled: bool = option(BOOL, False, "Share affinity among the proxies of the cluster.")
    ttl_s: float = option(POSITIVE_DURATION, "24h", "Forgotten after this time without a connection.")
    cleanup_interval_s: float = option(POSITIVE_DURATION, "1h", "How often old entries are removed.")
    cache_path: str = option(PATH, "", "File that keeps affinity across restarts; empty keeps none.")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Gossip with the other nodes."""

    enabled: bool = option(BOOL, False, "Be part of a cluster.")
    addr: str = option(
        HOST,
        "",
        "Address to bind and to tell the others, so one they can reach: no wildcard, not localhost.",
        shown="10.10.10.40:7946",
    )
    port: int = option(PORT, 7946, "Port, UDP and TCP, when addr has none.")
    advertise_addr: str = option(
        HOST, "", "Address the others reach this node by, when it is not addr: behind a translator, say."
    )
    node_id: str = option(TEXT, "", "Unique name of this node; the host name when empty.", shown="node-1")
    peers: tuple[str, ...] = option(
        REMOTES,
        [],
        "Some of the other nodes, by address or by name, which is looked up again; the rest is learned.",
        shown=["10.10.10.41:7946", "10.10.10.42:7946"],
    )
    secret_key: Secret[bytes] = option(
        KEY32, "", "32 bytes as base64 (openssl rand -base64 32), the same on all nodes."
    )
    secret_keys_old: tuple[Secret[bytes], ...] = option(
        KEYS32, [], "Earlier secrets, still understood while secret_key is changed node by node."
    )
    keyring_file: str = option(
        PATH,
        "",
        "Keys after a rotation by command are kept here. When empty, cluster-keys.json beside uploader.path.",
    )
    allow_remote_key_changes: bool = option(
        BOOL, True, "Other nodes, and serf keys on them, may add, choose and remove keys on this one."
    )
    label: str = option(
        TEXT, "", "Sent in clear with each packet; other labels are other clusters. Serf agents have none."
    )
    max_event_queue_size: int = option(
        POSITIVE,
        50_000,
        "Connection events per protocol waiting to be gossiped; more are dropped and counted.",
    )
    rate_limit_sync: RateLimitSync = section(RateLimitSync, "Failed logins count for the whole cluster.")
    affinity: Affinity = section(
        Affinity, "Cluster-wide affinity of users to backends, for proxies.", feature="proxies"
    )
    rpc_addr: str = option(
        HOST,
        "",
        "Address of the agent RPC for the serf program and its clients; empty listens nowhere.",
        shown="127.0.0.1:7373",
    )
    rpc_auth_key: Secret[str] = option(SECRET, "", "What its clients have to know.")
    testing_allow_loopback: bool = option(
        BOOL, False, "For tests on one machine only: addr and the other nodes may be loopback addresses."
    )

    @property
    def bind(self) -> Address:
        """Where gossip listens; only for an enabled cluster, whose address has been checked."""
        return parse_address(self.addr, self.port)

    @property
    def advertise(self) -> Address:
        """What the others are told; only for an enabled cluster."""
        bind = self.bind
        return parse_address(self.advertise_addr, bind.port) if self.advertise_addr else bind

    @property
    def other_peers(self) -> tuple[str, ...]:
        """The peers without this node itself."""
        own = parse_address(self.addr, self.port) if self.addr else None
        return tuple(peer for peer in self.peers if parse_address(peer, self.port) != own)


@dataclass(frozen=True, slots=True)
class AuthCache:
    """A file of verified credentials, for proxies that must log users in while the database is away."""

    enabled: bool = option(BOOL, False, "Use the cache.")
    path: str = option(PATH, "/var/lib/sora/auth_cache.db", "File, readable by the node alone.")
    max_age_s: float = option(
        POSITIVE_DURATION, "24h", "An entry is asked of the database again after this time."
    )
    cleanup_interval_s: float = option(POSITIVE_DURATION, "1h", "How often old entries are removed.")
    purge_unused_s: float = option(POSITIVE_DURATION, "168h", "Entries not used for this long are removed.")


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Stops asking a service that keeps failing."""

    threshold: int = option(POSITIVE, 5, "Failures in a row that open it.")
    timeout_s: float = option(POSITIVE_DURATION, "30s", "How long it stays open.")
    max_requests: int = option(POSITIVE, 3, "Trial requests before it closes again.")


@dataclass(frozen=True, slots=True)
class Relay:
    """Where redirected mail and vacation replies go."""

    type: str = option(choice("", "smtp", "http"), "", '"smtp", "http", or empty for no relay.', shown="smtp")
    smtp_host: str = option(HOST, "", "Host and port.", shown="smtp.example.com:587")
    smtp_username: str = option(TEXT, "", "SMTP AUTH user.")
    smtp_password: Secret[str] = option(SECRET, "", "SMTP AUTH password.")
    smtp_helo_host: str = option(TEXT, "", "Name in EHLO; the host name when empty.")
    smtp_tls: bool = option(BOOL, True, "Encrypt.")
    smtp_tls_verify: bool = option(BOOL, True, "Check the server's certificate.")
    smtp_use_starttls: bool = option(BOOL, False, "By STARTTLS instead of from the first byte.")
    smtp_tls_ca_file: str = option(PATH, "", "Authorities to trust, PEM; the system's when empty.")
    smtp_tls_cert_file: str = option(PATH, "", "Client certificate, PEM.")
    smtp_tls_key_file: str = option(PATH, "", "Its private key, PEM.")
    http_url: str = option(TEXT, "", "URL for the type http.")
    auth_token: Secret[str] = option(
        SECRET, "", "Bearer token for the type http.", aliases=("http_auth_token",)
    )


@dataclass(frozen=True, slots=True)
class RelayQueue:
    """The queue of mail on its way to the relay."""

    enabled: bool = option(BOOL, True, "Queue and retry; without it a failed delivery is a failure at once.")
    path: str = option(PATH, "/var/spool/sora/relay", "Directory; it holds mail.")
    worker_interval_s: float = option(duration(low=1), "1m", "How often the queue is looked at.")
    batch_size: int = option(POSITIVE, 100, "Messages per round.")
    concurrency: int = option(whole(1, 256), 5, "Deliveries at the same time.")
    max_attempts: int = option(POSITIVE, 10, "After these a message has failed.")
    retry_backoff_s: tuple[float, ...] = option(
        DURATIONS, ["1m", "5m", "15m", "1h", "6h", "24h"], "Pauses between attempts; the last repeats."
    )
    max_messages: int = option(COUNT, 1_000_000, "More are not taken; 0: no limit.")
    max_size_bytes: int = option(SIZE, "10gb", "Of all its files, those of failed mail too; 0: no limit.")
    min_free_disk_bytes: int = option(SIZE, "100mb", "What must stay free on its disk; 0: nothing.")
    circuit_breaker_threshold: int = option(
        POSITIVE, 5, "Failures in a row after which the relay counts as down."
    )
    circuit_breaker_timeout_s: float = option(
        POSITIVE_DURATION, "30s", "Then it is left alone for this long."
    )
    circuit_breaker_max_requests: int = option(POSITIVE, 3, "Trial deliveries before it counts as up.")
    failed_retention_s: float = option(DURATION, "168h", "Failed messages are kept this long; 0 keeps them.")
    cleanup_interval_s: float = option(
        POSITIVE_DURATION, "1h", "How often failed messages are looked through."
    )


@dataclass(frozen=True, slots=True)
class SpamTraining:
    """Tells a spam filter when users move mail into or out of Junk."""

    enabled: bool = option(BOOL, False, "Train.")
    endpoint: str = option(TEXT, "", "URL that takes a POST with JSON.")
    auth_token: Secret[str] = option(SECRET, "", "Bearer token.")
    timeout_s: float = option(POSITIVE_DURATION, "10s", "For one request.")
    max_message_size_bytes: int = option(SIZE, "10mb", "Larger messages are not sent.")
    max_attachment_size_bytes: int = option(SIZE, 0, "Larger attachments are left out; 0 leaves out all.")
    run_async: bool = option(BOOL, True, "false makes the move wait for the filter.", key="async")
    circuit_breaker: CircuitBreaker = section(CircuitBreaker, "Gives a failing filter a rest.")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Limits of RFC 5464 annotations, per account."""

    max_entry_size_bytes: int = option(SIZE, 65536, "One value. A command of IMAP has 128kb at most.")
    max_entries_per_mailbox: int = option(COUNT, 100, "Entries of one mailbox.")
    max_entries_per_server: int = option(COUNT, 50, "Entries of the account itself.")
    max_total_size_bytes: int = option(SIZE, "1mb", "All values together.")
    server_comment: str = option(
        TEXT, "", "What users read as /shared/comment of the server.", shown="Mail of Example Corp."
    )
    server_admin: str = option(
        TEXT,
        "",
        "A URI by which administrators are reached, read as /shared/admin of the server.",
        shown="mailto:postmaster@example.com",
    )


@dataclass(frozen=True, slots=True)
class SharedMailboxes:
    """Mailboxes shared among users, with access rights (RFC 4314)."""

    enabled: bool = option(BOOL, False, "Offer them.")
    namespace_prefix: str = option(TEXT, "Shared/", "Where they appear.")
    allow_user_create: bool = option(BOOL, False, "Users may create them.")
    default_rights: str = option(TEXT, "lrswipkxtea", "Rights of who created one.")
    allow_anyone_identifier: bool = option(BOOL, False, 'Users may grant rights to "anyone".')


@dataclass(frozen=True, slots=True)
class Sieve:
    """Mail filtering, shared by LMTP and ManageSieve."""

    enabled_extensions: tuple[str, ...] = option(
        choices(*sorted(SIEVE_EXTENSIONS)),
        [],
        "Extensions scripts may use; empty is all but those that change mail: editheader, replace, enclose.",
        shown=["fileinto", "envelope", "imap4flags"],
    )
    max_execution_time_s: float = option(
        duration(0.1, 60), "2s", "For the scripts of one recipient and message; from 100ms to 60s."
    )
    before_script: str = option(
        PATH, "", "A script that runs before each user's.", shown="/etc/sora/sieve/before.sieve"
    )
    after_script: str = option(
        PATH,
        "",
        "A script that runs after each user's, if that leaves the message to be kept.",
        shown="/etc/sora/sieve/after.sieve",
    )
    shared_scripts: str = option(
        PATH,
        "",
        "Directory of NAME.sieve files that users' scripts may include as :global.",
        shown="/etc/sora/sieve/shared",
    )
    lists_path: str = option(
        PATH,
        "",
        'Directory of NAME.list files with an address on each line ("@example.com": all of a domain); scripts'
        ' call them "tag:sora,2026:NAME" (extlists). Changed files are read again by themselves.',
        shown="/etc/sora/sieve/lists",
    )
    file_spam: bool = option(
        BOOL,
        True,
        "Mail that a spam filter in front has marked in its header goes to Junk, unless a script decides.",
    )
    spam_percent: float = option(
        number(1, 100), 50, "From which score on: 50 is what the filter requires for spam, 100 twice as much."
    )
    spam_fields: tuple[str, ...] = option(
        FIELDS,
        [],
        'More fields that mark spam, as "Name: value"; other words may follow the value.',
        shown=["X-Spam: yes"],
    )
    srs_domain: str = option(
        TEXT,
        "",
        "Domain of the senders of redirected mail, so that SPF holds (SRS); empty keeps them as they are.",
        shown="example.com",
    )
    srs_secret: Secret[str] = option(
        SECRET,
        "",
        "Seals them; the same on all nodes, 16 characters or more.",
        shown="openssl rand -base64 24",
    )
    srs_secret_old: Secret[str] = option(
        SECRET, "", "The secret before this one; what it has sealed is good for 21 days."
    )


@dataclass(frozen=True, slots=True)
class TimeoutScheduler:
    """The clock of session timeouts."""

    shard_count: int = option(whole(-1, 1024), 0, "0 is one per CPU, -1 one per two CPUs.")
