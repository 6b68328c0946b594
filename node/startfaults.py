"""What may keep a node or one of its processes from starting, and is no bug."""

from __future__ import annotations

from typing import Final

from storage.errors import StorageError
from storage.postgres.migrate import MigrationError
from storage.postgres.server import ServerError
from tls.errors import CertificateUnusable

from .clustering.errors import ClusterUnusable
from .privileges import PrivilegesUnusable
from .rclone import RcloneUnusable
from .relaying import RelayUnusable
from .sieve import SieveUnusable
from .sockets import ListenFailed


class StartFailed(Exception):
    """The node cannot start; the message names the cause and, where it is known, the cure."""


class WorkerFailed(Exception):
    """A worker does not start; the message says why."""


START_FAULTS: Final = (
    ServerError,
    RcloneUnusable,
    MigrationError,
    StorageError,
    CertificateUnusable,
    ListenFailed,
    PrivilegesUnusable,
    ClusterUnusable,
    SieveUnusable,
    RelayUnusable,
    WorkerFailed,
    OSError,
)
