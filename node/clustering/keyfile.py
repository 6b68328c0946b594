"""The keys a node uses after a rotation, kept across restarts.

The file is what Serf calls a keyring file: a JSON list of keys in base64, the first is used for sending.
Beside it lies a digest of the keys that were configured when it was written. As long as the configuration
is the same, the file is newer and counts; a configuration that was changed since is the operator's latest
word: its keys come first, and those of the file are still understood.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from node.config import Config

log = logging.getLogger("sora.cluster")

KEY_FILE: Final = "cluster-keys.json"
KEY_SIZES = (16, 24, 32)
MAX_KEYS = 16
MAX_BYTES = 4096


def key_path(config: Config) -> Path:
    if config.cluster.keyring_file:
        return Path(config.cluster.keyring_file)
    return Path(config.uploader.path).absolute().parent / KEY_FILE


class KeyFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._origin = path.with_name(path.name + ".origin")

    def keys(self, configured: Sequence[bytes]) -> tuple[bytes, ...]:
        """Those to start with. A file that cannot be used is logged, and the configuration counts."""
        if not self.path.exists():
            return tuple(configured)
        try:
            kept = parse_keys(_read(self.path))
            written_under = self._origin.read_text().strip() if self._origin.exists() else ""
        except (OSError, ValueError) as error:
            log.error("the keys in %s cannot be used (%s): the configured ones are", self.path, error)
            return tuple(configured)
        if written_under == _digest(configured):
            return kept
        log.info("the cluster's keys in the configuration were changed since %s was written", self.path)
        return tuple(dict.fromkeys((*configured, *kept)))

    def save(self, keys: Sequence[bytes], configured: Sequence[bytes]) -> None:
        """Atomically, for nobody else to read; blocks for two fsyncs. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._origin, _digest(configured))
        _write(self.path, json.dumps([base64.b64encode(key).decode() for key in keys], indent=2) + "\n")


def parse_keys(text: str) -> tuple[bytes, ...]:
    """Raises ValueError, without repeating what it read."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(plain, list) or not 0 < len(plain) <= MAX_KEYS:
        raise ValueError(f"it is not a list of up to {MAX_KEYS} keys")
    try:
        keys = tuple(base64.b64decode(each, validate=True) for each in plain)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError("a key is not base64") from error
    if any(len(key) not in KEY_SIZES for key in keys):
        raise ValueError("a key has not 16, 24 or 32 bytes")
    return tuple(dict.fromkeys(keys))


def key_name(key: bytes) -> str:
    """A fingerprint, for people and logs: the key itself is never shown."""
    return hashlib.sha256(b"sora cluster key" + key).hexdigest()[:12]


def _digest(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(len(key).to_bytes(1, "big") + key for key in keys)).hexdigest()


def _read(path: Path) -> str:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            log.warning("%s can be read by others than the node: chmod 600 it", path)
        return file.read(MAX_BYTES).decode()


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text.encode())
        file.flush()
        os.fsync(descriptor)
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
