"""Which sections of the configuration differ between nodes, without showing what is in them: a hash each.

What belongs to one node (its addresses, names and paths) is left out, so nodes that were set up alike have
equal hashes. The hashes are keyed with the secret of the cluster: who hears them without it learns nothing,
and a password behind one cannot be guessed at by others. While the secret is rotated hashes cannot be
compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b

from node.config import Config
from node.config.secret import Secret

HASH_BYTES = 6
# Of one node alone. A trailing dot: the whole section.
OF_THE_NODE = (
    "hostname",
    "workers",
    "memory_limit_bytes",
    "control_socket",
    "logging.",
    "embedded.",
    "admin_cli.",
    "local_cache.",
    "uploader.path",
    "uploader.instance_id",
    "cluster.addr",
    "cluster.port",
    "cluster.node_id",
    "cluster.peers",
    "cluster.advertise_addr",
    "cluster.keyring_file",
    "cluster.secret_key",
    "cluster.secret_keys_old",
    "cluster.rpc_addr",
    "cluster.rpc_auth_key",
    "servers[].addr",
    "servers[].tls_cert_file",
    "servers[].tls_key_file",
    "tls.cert_file",
    "tls.key_file",
    "tls.letsencrypt.fallback_dir",
    "tls.letsencrypt.challenge_listen",
    "servers[].id_name",
)


def section_hashes(config: Config, key: bytes) -> dict[str, bytes]:
    """By the name of the section; ``top`` for what is in none."""
    hashes: dict[str, bytes] = {}
    top: dict[str, object] = {}
    for each in fields(config):
        if _is_left_out(each.name):
            continue
        value = getattr(config, each.name)
        if is_dataclass(value) or (each.name == "servers"):
            hashes[each.name] = _digest(_plain(value, each.name), key)
        else:
            top[each.name] = _plain(value, each.name)
    hashes["top"] = _digest(top, key)
    return hashes


def fingerprint(key: bytes) -> bytes:
    """Of the key itself: whether hashes can be compared."""
    return blake2b(b"which key", digest_size=HASH_BYTES, key=key, person=b"sora drift").digest()


def differing(ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> list[str]:
    """Names of sections; one that only one of the two knows is of another version, and no difference."""
    return sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])


def _digest(plain: object, key: bytes) -> bytes:
    raw = json.dumps(plain, sort_keys=True, default=str).encode()
    return blake2b(raw, digest_size=HASH_BYTES, key=key, person=b"sora drift").digest()


def _plain(value: object, path: str) -> object:
    if isinstance(value, Secret):
        revealed = value.reveal()
        return revealed.hex() if isinstance(revealed, bytes) else revealed
    if is_dataclass(value):
        return {
            each.name: _plain(getattr(value, each.name), f"{path}.{each.name}")
            for each in fields(value)
            if not _is_left_out(f"{path}.{each.name}")
        }
    if isinstance(value, list | tuple):
        return [_plain(each, f"{path}[]") for each in value]
    return value


def _is_left_out(path: str) -> bool:
    return path in OF_THE_NODE or f"{path}." in OF_THE_NODE
