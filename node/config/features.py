"""Which features act in this version. Options of the others parse, validate and are announced at start.

To activate a feature: add its word to ACTIVE_FEATURES.
"""

from __future__ import annotations

ACTIVE_FEATURES: frozenset[str] = frozenset(
    {
        "ID settings",
        "auth_rate_limit",
        "capability settings",
        "client_filters",
        "cluster",
        "command timeouts",
        "connection limits per client",
        "imap",
        "letsencrypt",
        "lmtp",
        "managesieve",
        "metadata",
        "metrics",
        "pop3",
        "proxy_protocol",
        "relay",
        "session limits",
        "sieve",
        "sieve redirect",
        "spam_training",
        "trusted_networks",
        "user limits",
    }
)

# Features whose silent absence would do harm: asking for them without having them is an error.
UNSAFE_WITHOUT = {
    "proxy_protocol": "every client would have the address of the load balancer, in logs and in limits",
}

# Server types that are features of their own.
TYPE_FEATURES = {
    "imap": "imap",
    "lmtp": "lmtp",
    "pop3": "pop3",
    "managesieve": "managesieve",
    "imap_proxy": "proxies",
    "lmtp_proxy": "proxies",
    "pop3_proxy": "proxies",
    "managesieve_proxy": "proxies",
    "metrics": "metrics",
    "http_api": "http_api",
    "http_user_api": "http_user_api",
    "user_api_proxy": "http_user_api",
}


def is_active(feature: str) -> bool:
    return not feature or feature in ACTIVE_FEATURES
