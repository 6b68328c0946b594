"""How an IMAP server presents itself, from its settings."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from protocols.imap.presentation import Presentation, capability_names, id_fields

if TYPE_CHECKING:
    from .config.server import Server


def node_version() -> str:
    """Of the installed distribution; empty when the program runs from its source tree."""
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
        identity=id_fields(identity),
    )
