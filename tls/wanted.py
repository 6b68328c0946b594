"""Which certificates a configuration asks for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from hashlib import sha256


class KeyType(enum.Enum):
    """The values are those of the configuration."""

    P256 = "ecdsa-p256"
    P384 = "ecdsa-p384"
    RSA2048 = "rsa-2048"
    RSA4096 = "rsa-4096"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate: its names, checked, folded and sorted, and the type of its key.

    ``profile`` empty: the CA's default.
    """

    names: tuple[str, ...]
    key_type: KeyType = KeyType.P256
    profile: str = ""

    @property
    def id(self) -> str:
        """Names and key type, as 16 hex digits: what all nodes agree on without talking."""
        text = "\n".join((self.key_type.value, *self.names))
        return sha256(text.encode("ascii")).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For people."""
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"{self.names[0]}{more} ({self.key_type.value})"
