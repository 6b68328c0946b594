"""What may be said to a handshake instead of a certificate. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Unserved(enum.Enum):
    """Why a handshake gets no certificate; the values are words of the counter of rejections."""

    UNKNOWN_NAME = "sni_unknown"  # and the configuration says to refuse those
    NONE = "certificate_missing"
    EXPIRED = "certificate_expired"
    UNUSABLE = "certificate_unusable"
    NOT_IN_TIME = "certificate_awaited"  # configured, and it was not there within the time to wait
    CROWDED = "certificate_crowded"  # too many wait for that name already


@dataclass(frozen=True, slots=True)
class Awaited:
    """The name is configured, and has no certificate yet."""

    name: str
