"""Who the node runs as. Started as root, it binds its sockets, reads its keys, and becomes ``user`` for good.

What does not exist yet is made for that user; what exists stays whose it is, and when the user may not use it
the node does not start and says how to mend that: giving away files that somebody made is the operator's.
"""

from __future__ import annotations

import contextlib
import grp
import itertools
import logging
import os
import pwd
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .clustering.keyfile import key_path
from .control import control_path

if TYPE_CHECKING:
    from .config import Config

log = logging.getLogger("sora.node")

LOG_STREAMS: Final = ("stdout", "stderr", "syslog")
# Of the entries of a directory that are looked at; somebody else's are usually all of them.
LOOKED_AT: Final = 1000
READ_WRITE: Final = os.R_OK | os.W_OK


class PrivilegesUnusable(Exception):
    """The node cannot be, or not work as, who it should be; the message names the key and the cure."""


@dataclass(frozen=True, slots=True)
class Account:
    """``user`` and ``group`` of the configuration, as this machine knows them."""

    name: str
    uid: int
    gid: int
    group: str
    home: str


def account_of(user: str, group: str) -> Account:
    """Raises PrivilegesUnusable."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise PrivilegesUnusable(
            f'user: there is no account "{user}" on this machine; make it with: useradd --system {user}'
        ) from None
    try:
        of = grp.getgrnam(group) if group else None
    except KeyError:
        raise PrivilegesUnusable(
            f'group: there is no group "{group}" on this machine; make it with: groupadd --system {group}'
        ) from None
    gid = entry.pw_gid if of is None else of.gr_gid
    return Account(entry.pw_name, entry.pw_uid, gid, _group_name(gid), entry.pw_dir)


def account_to_become(config: Config) -> Account | None:
    """None: stay who we are. Raises PrivilegesUnusable."""
    if not config.user:
        return None
    account = account_of(config.user, config.group)
    ours = os.geteuid()
    if ours == account.uid:
        _check_group(config, account)
        return None
    if ours != 0:
        raise PrivilegesUnusable(
            f'user: the node was started by {who_we_are()} and only root could make it "{account.name}":'
            f' start it as root or as "{account.name}", or take the key out'
        )
    return account


def _check_group(config: Config, account: Account) -> None:
    """We are the user already: nothing will be changed, so everything has to be right."""
    if config.group and account.gid not in {os.getegid(), *os.getgroups()}:
        raise PrivilegesUnusable(
            f'group: the node was started without the group "{account.group}", which only root could add:'
            " start it as root, or take the key out"
        )


# --- as root -----------------------------------------------------------------------------------------


def hand_over(config: Config, account: Account) -> None:
    """Make what is missing of the node's directories and its log file, for the account. Raises OSError."""
    for _, path in directories(config):
        _make(path, 0o700, account)
    log_file = _log_file(config)
    if log_file is not None:
        _make(log_file.parent, 0o750, account)  # where it is rotated, too
        with contextlib.suppress(FileExistsError):
            made = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
            os.fchown(made, account.uid, account.gid)
            os.close(made)


def _make(path: Path, mode: int, account: Account) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def become(account: Account) -> None:
    """For good. Raises PrivilegesUnusable when anything of root is left, and OSError."""
    os.initgroups(account.name, account.gid)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    _check_powerless(account)
    os.environ.update(HOME=account.home, USER=account.name, LOGNAME=account.name)


def _check_powerless(account: Account) -> None:
    expected = set(os.getgrouplist(account.name, account.gid))
    has_changed = (
        os.getresuid() == (account.uid,) * 3
        and os.getresgid() == (account.gid,) * 3
        and set(os.getgroups()) <= expected
    )
    try:
        os.setresuid(-1, 0, -1)
    except PermissionError:
        if has_changed and not _capabilities():
            return
    raise PrivilegesUnusable(f'user: root\'s rights could not be given up for good as "{account.name}"')


def _capabilities() -> int:
    """What this process may do beyond its user, as the kernel's bit mask."""
    status = Path("/proc/self/status").read_text()
    masks = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Cap"))
    return int(masks["CapPrm"], 16) | int(masks["CapEff"], 16)


# --- as the user -------------------------------------------------------------------------------------


def check_usable(config: Config) -> None:
    """That this process may use all that the node writes, and its own program. Raises PrivilegesUnusable."""
    for key, path in directories(config):
        if key in FOR_ONE_FILE:
            continue
        if not os.access(path, READ_WRITE | os.X_OK):
            raise _foreign(key, path)
        for entry in itertools.islice(os.scandir(path), LOOKED_AT):
            if not entry.is_symlink() and not os.access(entry.path, READ_WRITE):
                raise _foreign(key, path)
    for key, file in _files(config):
        if not os.access(file, READ_WRITE):
            raise _foreign(key, file)
    if not os.access(sys.executable, os.X_OK) or not may_read(Path(__file__)):
        raise PrivilegesUnusable(
            f"user: {who_we_are()} may not run {sys.executable} or read {Path(__file__).parent}: install the"
            " program where everybody may, such as below /opt"
        )


def may_read(path: Path) -> bool:
    """False when the rights are missing; a file that is not there may be read."""
    try:
        with path.open("rb"):
            return True
    except PermissionError:
        return False
    except OSError:
        return True


def who_we_are() -> str:
    uid = os.geteuid()
    try:
        return f'the user "{pwd.getpwuid(uid).pw_name}"'
    except KeyError:
        return f"the user {uid}"


def cure(path: Path) -> str:
    """How root lets this process read a file."""
    group = _group_name(os.getegid())
    return f"let it: chgrp {group} {path} && chmod g+r {path}, and g+x for the directories above"


# --- what the node writes ----------------------------------------------------------------------------

# Directories that are made, and not looked into: others may have files there, too. A node starts without its
# control socket, and says so.
FOR_ONE_FILE: Final = frozenset({"control_socket", "cluster.keyring_file"})


def directories(config: Config) -> Iterator[tuple[str, Path]]:
    """Those that the node makes and writes, with the option that names each; outer ones first.

    To add one: a line.
    """
    named = {
        "control_socket": str(control_path(config).parent),
        "cluster.keyring_file": str(key_path(config).parent) if config.cluster.enabled else "",
        "uploader.path": config.uploader.path,
        "local_cache.path": config.local_cache.path if config.local_cache.capacity_bytes else "",
        "relay_queue.path": config.relay_queue.path if config.relay.type else "",
        "s3.path": config.s3.path if config.s3.driver == "file" else "",
        "tls.letsencrypt.fallback_dir": _mirror(config),
        "embedded.postgres_path": config.embedded.postgres_path,
        "embedded.rclone_path": config.embedded.rclone_path,
    }
    found = [(key, Path(name).absolute()) for key, name in named.items() if name]
    yield from sorted(found, key=lambda pair: len(pair[1].parts))


def _files(config: Config) -> Iterator[tuple[str, Path]]:
    """Those that are there."""
    named = {"logging.output": _log_file(config)}
    if config.cluster.enabled:
        named["cluster.keyring_file"] = key_path(config)
    return ((key, path) for key, path in named.items() if path is not None and path.exists())


def _mirror(config: Config) -> str:
    tls = config.tls
    is_kept = tls.enabled and tls.provider == "letsencrypt" and tls.letsencrypt.enable_fallback
    return tls.letsencrypt.fallback_dir if is_kept else ""


def _log_file(config: Config) -> Path | None:
    return None if config.logging.output in LOG_STREAMS else Path(config.logging.output)


def _foreign(key: str, path: Path) -> PrivilegesUnusable:
    entry = pwd.getpwuid(os.geteuid())
    return PrivilegesUnusable(
        f'{key}: "{entry.pw_name}" may not write all of {path}, which was made by somebody else; give it away'
        f" with: chown -R {entry.pw_name}:{_group_name(os.getegid())} {path}"
    )


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
