"""The types of servers, in the groups options apply to (names separated by spaces)."""

from __future__ import annotations

SERVER_TYPES = (
    "imap",
    "lmtp",
    "pop3",
    "managesieve",
    "imap_proxy",
    "lmtp_proxy",
    "pop3_proxy",
    "managesieve_proxy",
    "metrics",
    "http_api",
    "http_user_api",
    "user_api_proxy",
)
TYPE_ALIASES = {"http_admin_api": "http_api"}
PROXIES = "imap_proxy lmtp_proxy pop3_proxy managesieve_proxy"
BACKENDS = "imap pop3 managesieve"
LOGIN = f"{BACKENDS} imap_proxy pop3_proxy managesieve_proxy"  # those a user logs in to
CLIENTS = f"{LOGIN} lmtp_proxy http_api http_user_api user_api_proxy metrics"
IMAP_SIDE = "imap imap_proxy"
WITH_STARTTLS = "lmtp managesieve lmtp_proxy managesieve_proxy imap pop3"
TLS_CAPABLE = ""  # all
# Types that keep no mail themselves: a node with only these needs neither database nor object store.
PROXY_TYPES = frozenset(PROXIES.split())
STATELESS = frozenset(f"{PROXIES} metrics user_api_proxy".split())
