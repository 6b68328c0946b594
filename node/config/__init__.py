"""The configuration file as typed, frozen data.

Read ``model`` for the tree, ``option`` for how its fields are at the same time the table of options, and
``load`` for the way from text to tree: ``document`` (TOML with lines), ``dialects`` (one form), ``walk``
(values by the table), ``rules`` and ``serverrules`` (the whole).
"""

from __future__ import annotations

from .load import load
from .model import Config
from .option import every_row
from .problem import Loaded, Problem
from .secret import Secret
from .server import Server
from .serverparts import AuthRateLimit, ClientFilter, Limits, LookupCache, Prelookup, ProxyProtocol, Timeouts
from .services import (
    AdminCli,
    Cluster,
    Embedded,
    Logging,
    Metadata,
    Relay,
    RelayQueue,
    SharedMailboxes,
    Sieve,
    Tls,
)
from .storage import S3, Cleanup, Database, Endpoint, LocalCache, Uploader

__all__ = [
    "S3",
    "AdminCli",
    "AuthRateLimit",
    "Cleanup",
    "ClientFilter",
    "Cluster",
    "Config",
    "Database",
    "Embedded",
    "Endpoint",
    "Limits",
    "Loaded",
    "LocalCache",
    "Logging",
    "LookupCache",
    "Metadata",
    "Prelookup",
    "Problem",
    "ProxyProtocol",
    "Relay",
    "RelayQueue",
    "Secret",
    "Server",
    "SharedMailboxes",
    "Sieve",
    "Timeouts",
    "Tls",
    "Uploader",
    "every_row",
    "load",
]
