"""Tables inside a server: timeouts, limits, PROXY protocol, rate limits, filters, routing."""

from __future__ import annotations

from dataclasses import dataclass

from node.units import Network

from .kinds import (
    BOOL,
    COUNT,
    DURATION,
    HOSTS,
    OPTIONAL_NETWORKS,
    PATTERN,
    PATTERNS,
    PORT,
    POSITIVE,
    POSITIVE_DURATION,
    SECRET,
    SIZE,
    TEXT,
    TEXTS,
    choice,
    number,
    whole,
)
from .option import option, section
from .secret import Secret


@dataclass(frozen=True, slots=True)
class ImapCommandTimeouts:
    """Seconds per IMAP command."""

    search_s: float = option(POSITIVE_DURATION, "30s", "SEARCH.")
    sort_s: float = option(POSITIVE_DURATION, "30s", "SORT.")
    thread_s: float = option(POSITIVE_DURATION, "30s", "THREAD.")
    multi_search_s: float = option(POSITIVE_DURATION, "30s", "ESEARCH over several mailboxes.")
    fetch_s: float = option(POSITIVE_DURATION, "30s", "FETCH.")
    copy_s: float = option(POSITIVE_DURATION, "30s", "COPY.")
    move_s: float = option(POSITIVE_DURATION, "30s", "MOVE.")
    store_s: float = option(POSITIVE_DURATION, "15s", "STORE.")


@dataclass(frozen=True, slots=True)
class Pop3CommandTimeouts:
    """Seconds per POP3 command."""

    stat_s: float = option(POSITIVE_DURATION, "10s", "STAT.")
    list_s: float = option(POSITIVE_DURATION, "10s", "LIST.")
    uidl_s: float = option(POSITIVE_DURATION, "10s", "UIDL.")
    dele_s: float = option(POSITIVE_DURATION, "10s", "DELE.")
    retr_s: float = option(POSITIVE_DURATION, "30s", "RETR.")
    top_s: float = option(POSITIVE_DURATION, "30s", "TOP.")
    quit_s: float = option(POSITIVE_DURATION, "15s", "QUIT.")


@dataclass(frozen=True, slots=True)
class ManageSieveCommandTimeouts:
    """Seconds per ManageSieve command."""

    listscripts_s: float = option(POSITIVE_DURATION, "10s", "LISTSCRIPTS.")
    getscript_s: float = option(POSITIVE_DURATION, "10s", "GETSCRIPT.")
    putscript_s: float = option(POSITIVE_DURATION, "10s", "PUTSCRIPT.")
    checkscript_s: float = option(POSITIVE_DURATION, "10s", "CHECKSCRIPT.")
    setactive_s: float = option(POSITIVE_DURATION, "10s", "SETACTIVE.")
    deletescript_s: float = option(POSITIVE_DURATION, "10s", "DELETESCRIPT.")
    renamescript_s: float = option(POSITIVE_DURATION, "10s", "RENAMESCRIPT.")
    havespace_s: float = option(POSITIVE_DURATION, "10s", "HAVESPACE.")


@dataclass(frozen=True, slots=True)
class LmtpCommandTimeouts:
    """Seconds per LMTP command; on expiry the answer is a temporary failure."""

    rcpt_s: float = option(POSITIVE_DURATION, "10s", "RCPT.")
    data_s: float = option(POSITIVE_DURATION, "60s", "Storing a message after DATA.")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on the time the server spends on a command; streaming to the client does not count."""

    scheduler_shard_count: int = option(
        whole(-1, 1024), 0, "As timeout_scheduler.shard_count.", feature="sharded timeouts"
    )
    imap_command_timeouts: ImapCommandTimeouts = section(ImapCommandTimeouts, "For imap.", types="imap")
    pop3_command_timeouts: Pop3CommandTimeouts = section(Pop3CommandTimeouts, "For pop3.", types="pop3")
    managesieve_command_timeouts: ManageSieveCommandTimeouts = section(
        ManageSieveCommandTimeouts, "For managesieve.", types="managesieve"
    )
    lmtp_command_timeouts: LmtpCommandTimeouts = section(LmtpCommandTimeouts, "For lmtp.", types="lmtp")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user or session may ask for."""

    search_rate_limit_per_min: int = option(
        COUNT,
        60,
        "Searches per account in search_rate_limit_window that read headers or bodies; 0 is no limit.",
        types="imap",
    )
    search_rate_limit_window_s: float = option(POSITIVE_DURATION, "1m", "Window of it.", types="imap")
    redirect_rate_limit: int = option(
        COUNT,
        100,
        "Redirects of an account in redirect_rate_limit_window, each address counted; 0 is no limit.",
        types="lmtp http_api",
        feature="sieve redirect",
    )
    redirect_rate_limit_window_s: float = option(
        POSITIVE_DURATION, "1h", "Window of it.", types="lmtp http_api", feature="sieve redirect"
    )
    max_redirect_hops: int = option(
        COUNT,
        2,
        "Redirects one message may go through; 0 is no limit.",
        types="lmtp http_api",
        feature="sieve redirect",
    )
    vacation_rate_limit: int = option(
        COUNT,
        200,
        "Senders an account's vacation answers in vacation_rate_limit_window; 0 is no limit.",
        types="lmtp",
    )
    vacation_rate_limit_window_s: float = option(POSITIVE_DURATION, "1d", "Window of it.", types="lmtp")
    notify_rate_limit: int = option(
        COUNT,
        100,
        "Notifications an account's scripts send in notify_rate_limit_window, each address counted; 0 is no"
        " limit.",
        types="lmtp",
    )
    notify_rate_limit_window_s: float = option(POSITIVE_DURATION, "1h", "Window of it.", types="lmtp")
    session_memory_limit_bytes: int = option(
        SIZE,
        "100mb",
        "Memory one session may hold in large buffers; 0 is no limit.",
        types="imap pop3 managesieve",
    )
    max_auth_errors: int = option(
        POSITIVE,
        2,
        "Failed logins before a connection is closed.",
        types="imap_proxy pop3_proxy managesieve_proxy",
    )


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    """Client addresses from a load balancer."""

    enabled: bool = option(BOOL, False, "Expect a PROXY header on every connection.")
    timeout_s: float = option(POSITIVE_DURATION, "5s", "Time for the header to arrive.")
    trusted_proxies: tuple[Network, ...] | None = option(
        OPTIONAL_NETWORKS,
        "",
        "Who may send one; others are refused. When unset, servers.trusted_networks.",
        shown=["10.0.0.0/8"],
    )


@dataclass(frozen=True, slots=True)
class AuthRateLimit:
    """Failed logins: delays that grow, then a block. Only failures count, the same wrong password once."""

    enabled: bool = option(BOOL, True, "Use it. Without it only blocks by sora-admin hold.")
    max_attempts_per_ip_username: int = option(
        COUNT, 5, "Failures of one address for one user in ip_username_window_duration; 0 is no limit."
    )
    ip_username_window_duration_s: float = option(POSITIVE_DURATION, "10m", "Window of it.")
    ip_username_block_duration_s: float = option(
        POSITIVE_DURATION, "15m", "Then this pair is refused for so long."
    )
    max_attempts_per_ip: int = option(
        COUNT,
        50,
        "Failures of one address for any user in ip_window_duration; 0 is no limit. Low values lock out"
        " offices and mobile carriers that share an address.",
    )
    ip_window_duration_s: float = option(
        POSITIVE_DURATION, "30m", "Window of it.", aliases=("ip_window", "window_duration")
    )
    ip_block_duration_s: float = option(
        POSITIVE_DURATION, "30m", "Then the address is refused for so long.", aliases=("block_duration",)
    )
    fast_block_threshold: int = option(
        COUNT,
        10,
        "Failures of one address for different users in a row, within a minute, that block it; 0 never.",
    )
    fast_block_duration_s: float = option(POSITIVE_DURATION, "5m", "For so long.")
    max_block_duration_s: float = option(
        POSITIVE_DURATION, "24h", "Each block in a row is twice as long as the one before, up to this."
    )
    ipv6_prefix: int = option(
        whole(32, 128), 64, "IPv6 addresses that share so many bits count as one; customers get 64 or fewer."
    )
    max_attempts_per_username: int = option(
        COUNT, 10, "Failures for one user that are reported; a user is never blocked."
    )
    username_window_duration_s: float = option(
        POSITIVE_DURATION, "60m", "Window of it.", aliases=("username_window",)
    )
    delay_start_threshold: int = option(COUNT, 2, "Failures after which answers are delayed; 0 never.")
    initial_delay_s: float = option(DURATION, "1s", "First delay.")
    max_delay_s: float = option(DURATION, "30s", "Longest delay.")
    delay_multiplier: float = option(number(1, 100), 2.0, "Growth of the delay.")
    max_concurrent_delays_per_ip: int = option(
        POSITIVE, 10, "More delayed logins of one address are refused."
    )
    max_ip_username_entries: int = option(POSITIVE, 100_000, "Pairs remembered; the oldest go first.")
    max_ip_entries: int = option(POSITIVE, 50_000, "Addresses remembered.")
    max_username_entries: int = option(POSITIVE, 50_000, "Users remembered.")
    cleanup_interval_s: float = option(POSITIVE_DURATION, "5m", "How often old entries are removed.")
    exempt_networks: tuple[Network, ...] | None = option(
        OPTIONAL_NETWORKS,
        "",
        "Addresses that are never counted, delayed or blocked, besides those of this machine. When unset,"
        " servers.trusted_networks; [] is nobody, not even this machine.",
        shown=["10.0.0.0/8"],
    )


@dataclass(frozen=True, slots=True)
class LookupCache:
    """Answers about users, in memory."""

    enabled: bool = option(BOOL, True, "Remember them.")
    positive_ttl_s: float = option(DURATION, "5m", "Of users that exist.")
    negative_ttl_s: float = option(DURATION, "1m", "Of users that do not.")
    max_size: int = option(POSITIVE, 50_000, "Entries; the oldest go first.")
    cleanup_interval_s: float = option(POSITIVE_DURATION, "5m", "How often old entries are removed.")
    positive_revalidation_window_s: float = option(
        DURATION, "30s", "A changed password is asked of the database again after this time."
    )


@dataclass(frozen=True, slots=True)
class ClientFilter:
    """One kind of client and what it is not told."""

    client_name: str = option(PATTERN, "", "Regular expression on the name in ID.")
    client_version: str = option(PATTERN, "", "Regular expression on the version in ID.")
    ja4_fingerprints: tuple[str, ...] = option(
        PATTERNS,
        [],
        "Regular expressions on the JA4 fingerprint of the TLS handshake.",
        aliases=("ja4_fingerprint",),
        shown=["^t13d1516h2_.*"],
    )
    disable_caps: tuple[str, ...] = option(TEXTS, [], "Capabilities to take away.", shown=["IDLE"])
    reason: str = option(TEXT, "", "For the log.", shown="iOS Mail client with known IDLE issues")


@dataclass(frozen=True, slots=True)
class Prelookup:
    """Where a user's backend is looked up."""

    enabled: bool = option(BOOL, False, "Look users up.")
    source: str = option(choice("database", "http"), "database", '"database" or "http".')
    hosts: tuple[str, ...] = option(HOSTS, ["localhost"], "Database hosts.", aliases=("host",))
    port: int = option(PORT, 5432, "Their port.")
    user: str = option(TEXT, "postgres", "Database user.")
    password: Secret[str] = option(SECRET, "", "Its password.")
    name: str = option(TEXT, "sora_mail_db", "Database name.", aliases=("dbname", "database"))
    tls: bool = option(BOOL, False, "Encrypt the connection.")
    query: str = option(
        TEXT,
        "",
        "Statement with $1 for the address. It returns server; also address, password_hash, account_id.",
    )
    max_connections: int = option(POSITIVE, 10, "Connections to each host.", aliases=("max_conns",))
    url: str = option(TEXT, "", "Address of the web service; $email and $ip are replaced.")
    auth_token: Secret[str] = option(SECRET, "", "Bearer token.")
    timeout_s: float = option(POSITIVE_DURATION, "5s", "For one lookup.")
    lookup_local_users: bool = option(BOOL, False, "Users unknown there are looked up in the local database.")
    user_not_found_response: str = option(
        choice("550", "450"), "550", "LMTP: answer for unknown users, 550 (bounce) or 450 (try later)."
    )
    restrict_to_pool: bool = option(BOOL, False, "Only backends in remote_addrs are used.")
    remote_port: int = option(whole(0, 65535), 0, "Port of returned backends that name none.")
    remote_tls: bool = option(BOOL, False, "TLS towards returned backends.")
    remote_tls_use_starttls: bool = option(BOOL, False, "By STARTTLS.")
    remote_tls_verify: bool = option(BOOL, False, "Check their certificates.")
    remote_use_proxy_protocol: bool = option(BOOL, False, "PROXY protocol towards returned backends.")
    remote_use_id_command: bool = option(BOOL, False, "ID command towards returned backends.")
    remote_use_xclient: bool = option(BOOL, False, "XCLIENT towards returned backends.")
    remote_use_utf8: bool = option(BOOL, False, "UTF8=ACCEPT towards returned backends.")
