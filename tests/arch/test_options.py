"""An option that is said to act is read somewhere; one that is not read says so at start."""

from __future__ import annotations

import re

from node.config import Config
from node.config.features import TYPE_FEATURES, is_active
from node.config.option import Option, Row, rows

from .test_layers import ROOT, sources

READ_BY_RULES = {
    "tls.letsencrypt.storage_provider",  # its value decides then: "s3" is the only provider there is
    "tls.letsencrypt.fallback_directories",  # ``authorities_of`` makes one list of all authorities
}


def acting(of: type, prefix: str, is_above_active: bool) -> list[str]:
    """Names of the fields whose feature acts in this version."""
    found = []
    for row in rows(of):
        is_row_active = is_above_active and is_active(row.feature) and has_active_type(row)
        if isinstance(row, Option):
            found += [prefix + row.name] * is_row_active
        else:
            found += acting(row.of, f"{prefix}{row.name}.", is_row_active)
    return found


def has_active_type(row: Row) -> bool:
    return not row.types or any(is_active(TYPE_FEATURES[name]) for name in row.types if name in TYPE_FEATURES)


def test_every_acting_option_is_read_outside_the_configuration() -> None:
    code = "\n".join(
        path.read_text() for path in sources() if "node/config/" not in str(path.relative_to(ROOT))
    )
    names = [name for name in acting(Config, "", True) if name not in READ_BY_RULES]
    assert len(names) > 50
    unread = [name for name in names if not re.search(rf"\.{name.rpartition('.')[2]}\b", code)]
    assert not unread, f"give them a feature that is not active, or make them act: {unread}"
