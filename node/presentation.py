"""How an IMAP server presents itself, from its settings."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from protocols.imap.presentation import ClientFilter, Presentation, capability_names, id_fields

if TYPE_CHECKING:
    from .config.server import Server
    from .config.serverparts import ClientFilter as FilterOptions


@cache
def node_version() -> str:
    """Of the installed distribution, read from its files once; empty when the program runs from its source
    tree."""
    try:
        return version("sora-node")
    except PackageNotFoundError:
        return ""


def imap_presentation(server: Server) -> Presentation:
    identity = {
        "name": server.id_name,
        "version": server.id_version or node_version(),
        "vendor": server.id_vendor,
        "support-url": server.id_support_url,
    }
    return Presentation(
        hidden=capability_names(server.disabled_caps),
        additional=tuple(word.encode("ascii") for word in server.additional_caps),
        filters=tuple(_filter(options) for options in server.client_filters),
        identity=id_fields(identity),
    )


def _filter(options: FilterOptions) -> ClientFilter:
    return ClientFilter(
        re.compile(options.client_name) if options.client_name else None,
        re.compile(options.client_version) if options.client_version else None,
        capability_names(options.disable_caps),
        options.reason,
        tuple(re.compile(pattern) for pattern in options.ja4_fingerprints),
    )
