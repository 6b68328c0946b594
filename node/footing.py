"""What a node stands on before it does anything: its sockets and certificates, taken while it may be root.

The order is the point: what only root can do, then nothing of root any more, then everything else. Nobody is
served before, and no other program started.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import activation, logs
from .certificates import Certificates
from .privileges import (
    Account,
    account_to_become,
    become,
    check_usable,
    cure,
    hand_over,
    may_read,
    who_we_are,
)
from .sockets import BOUND_TYPES, Sockets

if TYPE_CHECKING:
    from .config import Config, Problem

log = logging.getLogger("sora.node")


@dataclass(frozen=True, slots=True)
class Footing:
    sockets: Sockets
    certificates: Certificates


def plain_footing(config: Config) -> Footing:
    """For who stays who it is: nothing is bound or read yet."""
    return Footing(Sockets(config), Certificates(config))


def take_footing(
    config: Config,
    config_file: Path,
    environment: MutableMapping[str, str],
    problems: tuple[Problem, ...] = (),
) -> Footing:
    """Sockets are bound, certificates read, log lines go where they should, and root is nobody any more.

    ``problems`` are logged as soon as that works. Raises PrivilegesUnusable, ListenFailed,
    CertificateUnusable, OSError.
    """
    account = account_to_become(config)
    if account is not None:
        hand_over(config, account)
    settings = config.logging
    logs.configure(output=settings.output, style=settings.format, level=settings.level)
    for problem in problems:
        level = logging.WARNING if problem.severity == "warning" else logging.INFO
        log.log(level, "%s: %s", problem.key, problem.message)
    sockets = Sockets(config, activation.take(environment))
    sockets.bind()
    certificates = Certificates(config)
    try:
        for server in config.servers:
            if server.start and server.type in BOUND_TYPES:
                certificates.of(server)
        _drop(config, config_file, account)
    except BaseException:
        sockets.close()
        raise
    certificates.refresh()
    return Footing(sockets, certificates)


def _drop(config: Config, config_file: Path, account: Account | None) -> None:
    if account is None:
        if os.geteuid() == 0 and not config.user:
            log.warning(
                "the node runs as root, and goes on doing so: set user (and group) to an account of its own"
            )
        return
    become(account)
    check_usable(config)
    log.info("runs as %s, group %s", who_we_are(), account.group)
    if not may_read(config_file):
        log.warning(
            "%s may not be read by %s, so no reload will work; %s",
            config_file,
            who_we_are(),
            cure(config_file),
        )
