"""One listening server: the same section for every type, with the types each option applies to."""

from __future__ import annotations

from dataclasses import dataclass

from node.units import Address, Network
from protocols.sieve.registry import NAMES as SIEVE_EXTENSIONS

from .kinds import (
    ADDRESS,
    BOOL,
    COUNT,
    DURATION,
    NETWORKS,
    OPTIONAL_DURATION,
    PATH,
    POSITIVE_DURATION,
    REMOTES,
    SECRET,
    SIZE,
    TEXT,
    TEXTS,
    THROUGHPUT,
    choice,
    choices,
    whole,
)
from .option import option, repeated, section
from .secret import Secret
from .serverparts import (
    AuthRateLimit,
    ClientFilter,
    Limits,
    LookupCache,
    Prelookup,
    ProxyProtocol,
    Timeouts,
)
from .servertypes import (
    BACKENDS,
    CLIENTS,
    IMAP_SIDE,
    LOGIN,
    PROXIES,
    SERVER_TYPES,
    TLS_CAPABLE,
    TYPE_ALIASES,
    WITH_STARTTLS,
)


@dataclass(frozen=True, slots=True)
class Server:
    """A listening server. In the array form each element is one; ``[servers.imap]`` is one of type imap."""

    type: str = option(
        choice(*SERVER_TYPES, **TYPE_ALIASES),
        "imap",
        "What it speaks: imap, lmtp, pop3, managesieve, their proxies (imap_proxy, lmtp_proxy, pop3_proxy,"
        " managesieve_proxy), metrics, http_api (also http_admin_api), http_user_api or user_api_proxy.",
        required=True,
        live=True,
    )
    name: str = option(TEXT, "", "Unique name in logs and metrics; the type, numbered, when empty.")
    start: bool = option(BOOL, True, "false keeps the block without starting it.", live=True)
    addr: Address = option(
        ADDRESS,
        ":0",
        'Where to listen: ":143" on all addresses, "10.0.0.1:143" or "[::1]:143" on one.',
        required=True,
        live=True,
        shown=":143",
    )
    tls: bool = option(BOOL, False, "TLS from the first byte (imaps, pop3s).", types=TLS_CAPABLE)
    tls_cert_file: str = option(
        PATH,
        "",
        "Certificate chain, PEM; read again when it changes. When empty, the section tls provides it.",
        shown="/etc/sora/cert.pem",
        types=TLS_CAPABLE,
    )
    tls_key_file: str = option(
        PATH, "", "Its private key, PEM.", shown="/etc/sora/key.pem", types=TLS_CAPABLE
    )
    tls_verify: bool = option(
        BOOL, False, "Ask clients for a certificate.", feature="client certificates", types=TLS_CAPABLE
    )
    tls_use_starttls: bool = option(
        BOOL,
        False,
        "With tls = true: start in plain text. Servers that do offer STARTTLS when they have a certificate.",
        types=WITH_STARTTLS,
    )
    tls_default_domain: str = option(
        TEXT,
        "",
        "Certificate for clients that send no server name.",
        feature="letsencrypt",
        types=TLS_CAPABLE,
    )
    insecure_auth: bool = option(
        BOOL,
        False,
        "Allow passwords over unencrypted connections. Loopback clients always may.",
        types="imap pop3 managesieve",
    )
    max_connections: int = option(
        COUNT, 0, "Connections at the same time; 0 is no limit but the machine's.", aliases=("max_conns",)
    )
    max_connections_per_ip: int = option(
        COUNT,
        0,
        "The same per client address, an IPv6 /64 counting as one; 0 is no limit. Trusted networks are not"
        " counted, here and in the two below.",
        feature="connection limits per client",
        types=CLIENTS,
    )
    max_connections_per_user: int = option(
        COUNT,
        0,
        "The same per user; 0 is no limit.",
        feature="connection limits per client",
        types=f"{BACKENDS} {PROXIES}",
    )
    max_connections_per_user_per_ip: int = option(
        COUNT,
        0,
        "The same per user and address; 0 is no limit.",
        feature="connection limits per client",
        types=f"{BACKENDS} {PROXIES}",
    )
    listen_backlog: int = option(
        whole(1, 65535), 1024, "Connections the kernel holds while the node is busy."
    )
    debug: bool = option(BOOL, False, "Log the conversation, secrets masked.", feature="wire logging")
    append_limit_bytes: int = option(SIZE, "25mb", "Largest message a client may append.", types="imap")
    max_message_size_bytes: int = option(
        SIZE, "50mb", "Largest message that is accepted.", types="lmtp lmtp_proxy http_api"
    )
    max_script_size_bytes: int = option(SIZE, "16kb", "Largest script.", types="managesieve")
    max_scripts: int = option(COUNT, 100, "Scripts of one account; 0 is no limit.", types="managesieve")
    supported_extensions: tuple[str, ...] = option(
        choices(*sorted(SIEVE_EXTENSIONS)),
        [],
        "Extensions that scripts may use, of those that the section sieve allows; empty is all of these.",
        types="managesieve",
        shown=["fileinto", "envelope", "imap4flags"],
    )
    command_timeout_s: float = option(
        POSITIVE_DURATION,
        "5m",
        "A connection that is silent for this long is closed. POP3 has 10m, as RFC 1939 §3 asks for at least"
        " ten minutes. A proxy needs more than its backends have.",
        aliases=("timeouts.command_timeout",),
        by_type={"pop3": "10m", "pop3_proxy": "10m"},
    )
    auth_idle_timeout_s: float | None = option(
        OPTIONAL_DURATION,
        "",
        "The same before login, when shorter; empty is 2m on proxies and command_timeout on others.",
        types=LOGIN,
    )
    absolute_session_timeout_s: float = option(
        POSITIVE_DURATION,
        "30m",
        "A session is closed after this time, between two commands; time spent idling (IDLE, NOTIFY) does not"
        " count.",
        aliases=("timeouts.absolute_session_timeout",),
        feature="session limits",
    )
    min_bytes_per_minute: int | None = option(
        THROUGHPUT,
        1024,
        "A client that is slower with the rest of a command or message it has begun, over three minutes, is"
        " closed; 0 is the default, -1 switches the check off.",
        aliases=("timeouts.min_bytes_per_minute",),
        feature="session limits",
    )
    timeouts: Timeouts = section(
        Timeouts, "Time the server may spend on single commands.", feature="command timeouts"
    )
    limits: Limits = section(Limits, "Limits on what one user may ask for.", feature="user limits")
    proxy_protocol: ProxyProtocol = section(
        ProxyProtocol,
        "Client addresses from a load balancer by the PROXY protocol. proxy_protocol = true is short for"
        " enabled = true.",
        feature="proxy_protocol",
    )
    auth_rate_limit: AuthRateLimit = section(
        AuthRateLimit,
        "Protection against guessed passwords.",
        types=LOGIN,
        feature="auth_rate_limit",
    )
    lookup_cache: LookupCache = section(
        LookupCache, "What the server remembers of users it looked up.", types=LOGIN, feature="lookup cache"
    )
    client_filters: tuple[ClientFilter, ...] = repeated(
        ClientFilter,
        "Take capabilities away from clients that mishandle them. A filter matches when client_name and"
        " client_version both do, or when a fingerprint does.",
        types="imap",
        feature="client_filters",
    )
    disabled_caps: tuple[str, ...] = option(
        TEXTS, [], "Capabilities nobody is told of.", types=IMAP_SIDE, feature="capability settings"
    )
    additional_caps: tuple[str, ...] = option(
        TEXTS, [], "Further words in the capability list.", types=IMAP_SIDE, feature="capability settings"
    )
    id_name: str = option(TEXT, "Sora", "Answer to ID: name.", types=IMAP_SIDE, feature="ID settings")
    id_version: str = option(
        TEXT, "", "Answer to ID: version; empty is that of the node.", types=IMAP_SIDE, feature="ID settings"
    )
    id_vendor: str = option(TEXT, "", "Answer to ID: vendor.", types=IMAP_SIDE, feature="ID settings")
    id_support_url: str = option(
        TEXT, "", "Answer to ID: support-url.", types=IMAP_SIDE, feature="ID settings"
    )
    master_username: str = option(
        TEXT,
        "",
        "user@domain@THIS with the master password logs in as user.",
        types=LOGIN,
        feature="master users",
    )
    master_password: Secret[str] = option(SECRET, "", "Its password.", types=LOGIN, feature="master users")
    master_sasl_username: str = option(
        TEXT,
        "",
        "May log in as any user by SASL PLAIN with an authorization id; used by proxies.",
        types=LOGIN,
        feature="master users",
    )
    master_sasl_password: Secret[str] = option(
        SECRET, "", "Its password.", types=LOGIN, feature="master users"
    )
    master_sasl_allowed_networks: tuple[Network, ...] = option(
        NETWORKS, [], "Where it may come from; empty is anywhere.", types=BACKENDS, feature="master users"
    )
    remote_addrs: tuple[str, ...] = option(
        REMOTES,
        [],
        "Backends.",
        types=f"{PROXIES} user_api_proxy",
        shown=["backend1:143", "backend2:143"],
        live=True,
    )
    remote_port: int = option(
        whole(0, 65535), 0, "Port of backends that name none; 0 is that of addr.", types=PROXIES
    )
    remote_tls: bool = option(BOOL, False, "TLS towards the backends.", types=PROXIES)
    remote_tls_use_starttls: bool = option(BOOL, False, "By STARTTLS.", types="lmtp_proxy managesieve_proxy")
    remote_tls_verify: bool = option(BOOL, False, "Check their certificates.", types=PROXIES)
    remote_tls_ca_file: str = option(PATH, "", "Against these authorities, PEM.", types=PROXIES)
    remote_use_proxy_protocol: bool = option(
        BOOL, False, "Tell backends the client address by the PROXY protocol.", types=PROXIES
    )
    remote_use_id_command: bool = option(BOOL, False, "By the ID command.", types="imap_proxy")
    remote_use_xclient: bool = option(BOOL, False, "By XCLIENT.", types="lmtp_proxy pop3_proxy")
    remote_use_utf8: bool = option(BOOL, False, "Ask backends for UTF8=ACCEPT.", types="imap_proxy")
    connect_timeout_s: float = option(
        POSITIVE_DURATION, "30s", "For a connection to a backend.", types=PROXIES
    )
    remote_health_checks: bool = option(BOOL, True, "Leave failing backends out.", types=PROXIES)
    remote_dns_refresh_s: float = option(
        DURATION, "5m", "How often backend names are resolved again; 0 once.", types=PROXIES
    )
    enable_affinity: bool = option(BOOL, False, "A user's connections go to the same backend.", types=PROXIES)
    prelookup: Prelookup = section(
        Prelookup,
        "Asks a database or a web service which backend a user belongs to.",
        aliases=("remote_lookup",),
        types=PROXIES,
        feature="prelookup",
    )
    api_key: Secret[str] = option(
        SECRET, "", "Bearer key, at least 16 characters.", types="http_api metrics", shown="YOUR_API_KEY"
    )
    allowed_hosts: tuple[Network, ...] = option(
        NETWORKS,
        [],
        "Addresses and networks that may connect; empty is any.",
        types="http_api http_user_api metrics",
        shown=["10.0.0.0/8", "172.16.0.0/12"],
    )
    jwt_secret: Secret[str] = option(
        SECRET, "", "Signs users' tokens, at least 32 characters.", types="http_user_api user_api_proxy"
    )
    token_duration_s: float = option(
        POSITIVE_DURATION, "24h", "How long a token is good.", types="http_user_api user_api_proxy"
    )
    token_issuer: str = option(TEXT, "", "Issuer in tokens.", types="http_user_api user_api_proxy")
    allowed_origins: tuple[str, ...] = option(
        TEXTS, [], "Origins for browsers (CORS).", types="http_user_api user_api_proxy"
    )
    path: str = option(
        TEXT, "/metrics", "Path of the metrics; /healthz and /readyz are beside it.", types="metrics"
    )
    enable_domain_metrics: bool = option(
        BOOL, True, "Count per domain.", types="metrics", feature="metrics per user"
    )
    enable_user_metrics: bool = option(
        BOOL, False, "Count per user.", types="metrics", feature="metrics per user"
    )
    user_metrics_threshold: int = option(
        COUNT, 1000, "Only users with more commands than this.", types="metrics", feature="metrics per user"
    )
    max_tracked_users: int = option(
        COUNT, 1000, "At most this many.", types="metrics", feature="metrics per user"
    )
    hash_usernames: bool = option(
        BOOL, True, "Show a hash instead of the address.", types="metrics", feature="metrics per user"
    )
