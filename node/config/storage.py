"""Sections about where mail lives: PostgreSQL, the object store, the cache, staging and the clean-up."""

from __future__ import annotations

from dataclasses import dataclass

from node.units import Address, parse_address

from .kinds import (
    BOOL,
    COUNT,
    DURATION,
    HOSTS,
    KEY32,
    KEYS32,
    MAILBOX,
    OPTIONAL_DURATION,
    PATH,
    PORT,
    POSITIVE,
    POSITIVE_DURATION,
    SECRET,
    SIZE,
    TEXT,
    TEXTS,
    choice,
    duration,
    whole,
)
from .option import option, optional_section, section
from .secret import Secret


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One role of the database (writing or reading) and the servers that can play it."""

    hosts: tuple[str, ...] = option(
        HOSTS,
        ["localhost"],
        'Host names, addresses or, beginning with "/", directories of a Unix socket; each may have its own'
        ' port ("db1:5433"). For writing a failover list: the first that accepts writes is used. For reading'
        " all are used, in turn.",
        aliases=("host",),
        live=True,
    )
    port: int = option(PORT, 5432, "Port of the hosts that name none.")
    user: str = option(TEXT, "postgres", "Database user.", live=True, shown="sora_user")
    password: Secret[str] = option(
        SECRET,
        "",
        "Its password. Leave it empty for trust, peer or certificate authentication.",
        live=True,
        shown="YOUR_DATABASE_PASSWORD",
    )
    name: str = option(TEXT, "sora_mail_db", "Database name.", aliases=("dbname", "database"))
    tls: bool = option(BOOL, False, "Encrypt the connection to PostgreSQL.")
    max_connections: int = option(
        POSITIVE,
        50,
        "Connections of this node to each host, shared among its worker processes. More allow more statements"
        " at once; the sum over all nodes has to stay below max_connections of PostgreSQL.",
        aliases=("max_conns",),
    )
    min_connections: int = option(
        COUNT,
        0,
        "Connections that are opened at start and kept. More make the first requests faster and hold server"
        " memory while idle.",
        aliases=("min_conns", "min_idle_connections"),
    )
    max_conn_lifetime_s: float = option(
        POSITIVE_DURATION,
        "1h",
        "A connection is replaced after this time, so that failovers and DNS changes spread.",
    )
    max_conn_idle_time_s: float = option(
        POSITIVE_DURATION, "5m", "An idle connection is closed after this time."
    )
    query_timeout_s: float = option(
        POSITIVE_DURATION, "30s", "As database.query_timeout, which it replaces for these hosts."
    )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The hosts, each with its port."""
        return tuple(parse_address(host, self.port) for host in self.hosts)


@dataclass(frozen=True, slots=True)
class Database:
    """PostgreSQL 14 or newer: all metadata of the mail."""

    query_timeout_s: float = option(
        POSITIVE_DURATION, "30s", "Reads that take longer fail as temporarily unavailable."
    )
    search_timeout_s: float = option(POSITIVE_DURATION, "60s", "The same for SEARCH, SORT and THREAD.")
    write_timeout_s: float = option(POSITIVE_DURATION, "15s", "The same for writes.")
    lock_timeout_s: float = option(
        DURATION,
        "10s",
        "How long a statement waits for a lock of another; 0 waits as long as the statement may run.",
    )
    migration_timeout_s: float = option(
        POSITIVE_DURATION,
        "2m",
        "How long a starting node may take, or wait for another, to bring the schema up to date.",
    )
    fetch_chunk_size: int = option(
        whole(1, 100_000),
        1000,
        "Messages read with one statement. More mean fewer round trips and more memory per session.",
        feature="fetch_chunk_size",
    )
    debug: bool = option(BOOL, False, "Log every statement with its duration. Parameters are not logged.")
    write: Endpoint = section(
        Endpoint, "The primary: all writes, and all reads when there is no database.read."
    )
    read: Endpoint | None = optional_section(
        Endpoint,
        "Read replicas, optional. Reads go to them once they have replayed what the same account wrote last."
        " What is not set here is taken from database.write.",
    )


@dataclass(frozen=True, slots=True)
class S3:
    """The object store for message bodies."""

    driver: str = option(
        choice("s3", "file"),
        "s3",
        '"s3" for any S3-compatible service, "file" for a directory of this machine (one node only).',
    )
    path: str = option(PATH, "/var/lib/sora/objects", 'Directory of the driver "file".')
    endpoint: str = option(
        TEXT,
        "",
        'Host and port of the service, with or without "https://".',
        live=True,
        shown="s3.us-east-1.amazonaws.com",
    )
    disable_tls: bool = option(
        BOOL, False, "Plain http, for a service on the same machine or a trusted network."
    )
    region: str = option(
        TEXT, "us-east-1", "Region used for signing; most services other than AWS ignore it."
    )
    access_key: str = option(
        TEXT, "", "Access key id.", live=True, shown="YOUR_S3_ACCESS_KEY", credential=True
    )
    secret_key: Secret[str] = option(SECRET, "", "Secret access key.", live=True, shown="YOUR_S3_SECRET_KEY")
    bucket: str = option(
        TEXT, "", "An existing bucket, of this cluster alone.", live=True, shown="your-sora-mail-bucket"
    )
    path_style: bool = option(
        BOOL, True, "https://endpoint/bucket/key; false puts the bucket into the host name."
    )
    timeout_s: float = option(POSITIVE_DURATION, "30s", "For a whole operation including the body.")
    retries: int = option(
        whole(0, 20),
        3,
        "Further attempts after a failure that may pass. More ride out longer outages, and delay errors.",
    )
    compress: bool = option(BOOL, True, "Compress bodies with zstd where it saves space.")
    encrypt: bool = option(
        BOOL,
        False,
        "Encrypt bodies with AES-256-GCM before they leave the node. Objects written before stay readable.",
    )
    encryption_key: Secret[bytes] = option(
        KEY32,
        "",
        "32 bytes as base64 or 64 hexadecimal digits (openssl rand -base64 32), the same on all nodes."
        " Whoever loses it has lost all bodies: keep a copy elsewhere.",
    )
    previous_encryption_keys: tuple[Secret[bytes], ...] = option(
        KEYS32, [], "Keys used before, for reading only. Remove one when no object needs it any more."
    )
    debug: bool = option(BOOL, False, "Log every request, without credentials.")


@dataclass(frozen=True, slots=True)
class LocalCache:
    """A disposable cache of message bodies on this node's disk."""

    path: str = option(PATH, "/var/cache/sora", "Directory, best on an SSD; created when missing.")
    capacity_bytes: int = option(
        SIZE, "1gb", "Never exceeded; the least recently used bodies go first. 0 switches the cache off."
    )
    max_object_size_bytes: int = option(
        SIZE, "5mb", "Larger bodies are not cached, so that a few do not push out many."
    )
    purge_interval_s: float = option(
        POSITIVE_DURATION,
        "12h",
        "How often the index is compared with the files on disk.",
        feature="cache sweeps",
    )
    orphan_cleanup_age_s: float = option(
        POSITIVE_DURATION,
        "30d",
        "Cached bodies whose message is gone are dropped after this age.",
        feature="cache sweeps",
    )
    metrics_interval_s: float = option(
        POSITIVE_DURATION,
        "5m",
        "How often hit ratios are stored for sora-admin cache metrics.",
        feature="cache metrics",
    )
    metrics_retention_s: float = option(
        POSITIVE_DURATION, "30d", "How long they are kept.", feature="cache metrics"
    )
    enable_warmup: bool = option(BOOL, True, "Fetch recent bodies in the background when a user logs in.")
    warmup_message_count: int = option(whole(0, 10_000), 50, "How many of each mailbox, newest first.")
    warmup_mailboxes: tuple[str, ...] = option(TEXTS, ["INBOX"], "Which mailboxes.")
    warmup_async: bool = option(
        BOOL, True, "false makes the login wait for the warm-up.", feature="synchronous warm-up"
    )
    warmup_timeout_s: float = option(POSITIVE_DURATION, "5m", "A warm-up that takes longer is given up.")
    warmup_interval_s: float = option(DURATION, "24h", "At most one warm-up per user in this time.")


@dataclass(frozen=True, slots=True)
class Uploader:
    """Staging of new bodies and their way to the object store."""

    staging: str = option(
        choice("database", "disk"),
        "database",
        'Where a new body is durable until it is uploaded. "database": in the same commit as its metadata, so'
        ' that the loss of a node loses nothing. "disk": in path, which spares PostgreSQL and slows small'
        " messages; a body waits for this very node.",
    )
    path: str = option(
        PATH, "/var/lib/sora/staging", 'Directory of staging = "disk". It holds mail: never below /tmp.'
    )
    instance_id: str = option(
        TEXT,
        "",
        "Name of this node in upload leases; the host name when empty. Keep it when the node is renamed.",
    )
    batch_size: int = option(whole(1, 1000), 100, "Bodies leased per round.")
    concurrency: int = option(
        whole(1, 256),
        10,
        "Uploads at the same time. More help when the object store is far away, and cost memory.",
    )
    max_attempts: int = option(
        POSITIVE, 20, "Permanent failures after which a body waits for an operator. Outages do not count."
    )
    retry_interval_s: float = option(
        POSITIVE_DURATION,
        "30s",
        "Pause after a failure. What a node was uploading when it died is taken over after this time and"
        " s3.timeout.",
    )
    cleanup_grace_period_s: float = option(
        duration(low=60), "1h", "Files in path that belong to no message are removed when older than this."
    )
    max_staging_size_bytes: int = option(
        SIZE,
        "10gb",
        "When more than this waits for upload, new mail is refused for now (452): in the database, of all"
        ' nodes; with staging = "disk", in path of this node. 0 is no limit.',
    )
    min_free_space_bytes: int = option(
        SIZE,
        "512mb",
        "New mail is refused for now (452) before a disk it is written to has less than this left, or a"
        " twentieth of a small disk: that of path, and that of embedded.postgres_path. 0: until it is full.",
    )


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What is deleted for good, and when."""

    grace_period_s: float = option(
        DURATION,
        "14d",
        "Expunged messages, deleted mailboxes and accounts can be restored for this long.",
        live=True,
    )
    recovered_namespace: str = option(
        MAILBOX,
        "Recovered",
        "IMAP users find deleted messages below this name, one read-only mailbox a day, and copy them back;"
        " empty switches it off.",
    )
    wake_interval_s: float = option(duration(low=60), "1h", "How often the clean-up runs; at least 1m.")
    max_age_restriction_s: float | None = option(
        OPTIONAL_DURATION, "", 'Expunge messages older than this, for example "365d"; empty keeps all.'
    )
    fts_retention_s: float | None = option(
        OPTIONAL_DURATION,
        "",
        "Drop the full-text index of messages older than this; empty keeps it.",
        feature="full-text index",
    )
    health_status_retention_s: float = option(
        POSITIVE_DURATION, "30d", "How long health records are kept.", feature="health records"
    )
    instance_liveness_threshold_s: float = option(
        POSITIVE_DURATION,
        "7d",
        "A node not heard of for this long counts as gone when orphaned uploads are judged.",
        feature="health records",
    )
