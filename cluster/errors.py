"""What can be wrong with what another node sends."""

from __future__ import annotations

import enum


class Reason(enum.Enum):
    """Why a packet or stream was dropped; the values are metric labels."""

    LABEL = "label"  # of another cluster
    PLAINTEXT = "plaintext"  # not encrypted at all
    KEY = "key"  # no key of ours opens it, or it was altered
    CHECKSUM = "checksum"
    COMPRESSION = "compression"  # unknown algorithm, damaged
    OVERSIZED = "oversized"  # in itself, unpacked, or in what it promises
    TRUNCATED = "truncated"
    NESTING = "nesting"
    UNKNOWN_TYPE = "unknown_type"
    MALFORMED = "malformed"  # of the right kind, but not what it should be
    VERSION = "version"  # speaks protocols that we do not
    FORGED = "forged"  # says something only another could say
    REPLAYED = "replayed"  # the same packet again
    STALE = "stale"  # too old or too far in the future to matter
    OVERLOAD = "overload"  # more than is taken at once


class PacketRejected(Exception):
    """One packet, or one part of it, is dropped and counted; nothing else happens."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail
