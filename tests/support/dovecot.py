"""A private Dovecot on ports of its own: an oracle, and figures side by side. Needs root and its packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_ports

BINARY = "/usr/sbin/dovecot"
PACKAGES = ("imap", "lmtp", "pop3")
PASSWORD = "secret"
STARTS_WITHIN_S = 60.0

CONFIG = """
base_dir = {dir}/run
state_dir = {dir}/run
log_path = {dir}/dovecot.log
protocols = imap lmtp pop3
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
listen = 127.0.0.1
mail_location = {location}
mail_fsync = {fsync}
first_valid_uid = 1
disable_plaintext_auth = no
auth_mechanisms = plain
mail_max_userip_connections = 5000
default_client_limit = 20000
default_process_limit = 4000
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={dir}/home/%u
}}
service imap-login {{
  chroot =
  process_min_avail = 2
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
service lmtp {{
  process_min_avail = 2
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service stats {{
  chroot =
}}
mail_attribute_dict = file:%h/attributes
protocol imap {{
  imap_metadata = yes
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""


def is_installed() -> bool:
    return os.geteuid() == 0 and all(Path(f"/usr/lib/dovecot/{name}").exists() for name in PACKAGES)


@dataclass
class Dovecot:
    """Started by ``start``; every user exists and has PASSWORD."""

    directory: Path
    imap: int
    imaps: int
    pop3: int
    lmtp: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        directory: Path,
        cert: Path,
        key: Path,
        location: str = "maildir:~/Maildir",
        *,
        more: str = "",
    ) -> Dovecot:
        """``more``: further lines of its configuration."""
        imap, imaps, pop3, lmtp = free_ports(4)
        user = "nobody"
        for folder in ("run", "home"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        shutil.chown(directory / "home", user)
        config = directory / "dovecot.conf"
        config.write_text(
            CONFIG.format(
                dir=directory, cert=cert, key=key, location=location, fsync="optimized", password=PASSWORD,
                user=user, group="nogroup", imap=imap, imaps=imaps, pop3=pop3, lmtp=lmtp,
            )
            + more
        )  # fmt: skip
        process = subprocess.Popen([BINARY, "-F", "-c", str(config)], start_new_session=True)
        for port in (imap, imaps, pop3, lmtp):
            _wait(port, process, directory)
        return cls(directory, imap, imaps, pop3, lmtp, process)

    def pids(self) -> list[int]:
        """The master and all its children, for CPU accounting."""
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [self.process.pid, *(int(pid) for pid in children.stdout.split())]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dovecot did not start; see {directory}/dovecot.log") from error
            time.sleep(0.02)
