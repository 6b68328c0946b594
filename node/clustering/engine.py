"""The engine of a node, with the chance it needs from the system."""

from __future__ import annotations

import random
import secrets

from cluster.api import Settings
from cluster.engine import Engine
from cluster.keyring import NONCE_BYTES


def real_engine(settings: Settings) -> Engine:
    """Raises ValueError for settings of the wrong size."""
    return Engine(settings, random.Random(secrets.randbits(128)), lambda: secrets.token_bytes(NONCE_BYTES))  # noqa: S311
