"""A private Postfix (Debian's) on ports of its own, in front of a node, behind it, or both. Needs root.

Mail for the domains of ``lmtp`` goes on by LMTP, all other mail into one maildir, a file for each recipient,
so nothing ever leaves the machine. Clients of loopback addresses may send anywhere.

    with Postfix(lmtp={"example.test": node.port("lmtp")}, replies={"gone@far.test": "550 5.1.1 no"}) as mta:
        mta.send("ann@far.test", ["bob@example.test"], message)
        mta.wait_until_empty()
        mta.mails()      # what came to other domains: reports, redirects, replies
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import smtplib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.authority import Pair
from tests.support.ipv6 import has_ipv6
from tests.support.nodeprocess import public_directory
from tests.support.ports import LOOPBACK6, free_port, free_ports

PROGRAM = "/usr/sbin/postfix"
STARTS_WITHIN_S = 60.0
ENDS_WITHIN_S = 60.0
EMPTY_WITHIN_S = 120.0

MAIN = """
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {dir}/maillog
maillog_file_prefixes = {dir}
myhostname = {hostname}
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = all
inet_protocols = all
mynetworks = 127.0.0.0/8 [::1]/128
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access texthash:{dir}/replies
transport_maps = regexp:{dir}/transport
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
message_size_limit = 52428800
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
disable_dns_lookups = yes
smtpd_banner = $myhostname ESMTP
service_throttle_time = 1s
transport_retry_time = 1s
lmtp_destination_recipient_limit = 50
"""

MASTER = """
{smtp} inet n - n - - smtpd -o max_use=1
{smtps} inet n - n - - smtpd -o max_use=1 -o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=encrypt
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
MASTER6 = "[::1]:{smtp6} inet n - n - - smtpd -o max_use=1\n"

TLS = """
smtpd_tls_security_level = may
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
"""

SASL = """
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_sasl_authenticated_header = yes
"""

DOVECOT = """
base_dir = {dir}/sasl/run
state_dir = {dir}/sasl/run
log_path = {dir}/sasl/log
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
passdb {{
  driver = passwd-file
  args = {dir}/sasl/users
}}
service auth {{
  unix_listener {dir}/queue/private/auth {{
    mode = 0660
    user = postfix
    group = postfix
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


@dataclass(frozen=True)
class Mail:
    """One message for one recipient."""

    recipient: str
    sender: str  # of the envelope
    content: bytes  # with Postfix's Return-Path, X-Original-To and Delivered-To in front, and LF for CRLF


def is_installed() -> bool:
    return os.geteuid() == 0 and Path(PROGRAM).exists()


@dataclass
class Postfix:
    """Use as a context manager. Everything but the ports can be changed while it runs: set, then ``reload``.

    ``replies``: what RCPT answers, by address (``a@b.c``) or domain (``b.c``), as in access(5).
    ``logins``: users and passwords; with them AUTH is offered, by Dovecot (``mechanisms``).
    ``parameters``: more of main.cf; they go before what stands here.
    """

    hostname: str = "mx.test"
    lmtp: Mapping[str, int] = field(default_factory=dict)  # domain: port
    replies: Mapping[str, str] = field(default_factory=dict)
    tls: Pair | None = None
    logins: Mapping[str, str] = field(default_factory=dict)
    mechanisms: str = "plain login"
    parameters: Mapping[str, str] = field(default_factory=dict)
    directory: Path = field(default_factory=lambda: public_directory("postfix-"))
    port: int = 0  # plain and STARTTLS, on 127.0.0.1
    tls_port: int = 0  # TLS from the first byte
    port6: int = 0  # as ``port``, on ::1 alone; 0 where there is no IPv6

    def __post_init__(self) -> None:
        self.port, self.tls_port = free_ports(2)
        self.port6 = free_port(LOOPBACK6) if has_ipv6() else 0
        self._dovecot: subprocess.Popen[bytes] | None = None

    # --- life ---

    def __enter__(self) -> Postfix:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def start(self) -> Postfix:
        """Returns when it takes connections. Mail of an earlier start is kept."""
        self._write()
        for name in ("queue", "data", "mail"):
            (self.directory / name).mkdir(exist_ok=True)
        shutil.chown(self.directory / "data", "postfix")
        shutil.chown(self.directory / "mail", 65534, 65534)
        self._run(PROGRAM, "start")
        # before the first connection: an smtpd without mechanisms ends, and the next comes late
        if self.logins:
            self._start_dovecot()
        self._wait_for_greeting()
        return self

    def stop(self) -> None:
        """At once; what is queued stays."""
        if self._dovecot is not None:
            self._dovecot.terminate()
            self._dovecot.wait()
            self._dovecot = None
        if self._is_running():
            self._run(PROGRAM, "stop")

    def reload(self) -> None:
        """In force for every connection after it; what it has taken by now is delivered before.

        It starts anew. Told to reload, its master reads the files, and may have more to say of them than the
        socket of the log holds while the program that empties it has ended for the same reload and only the
        master could start it again: then no connection is answered for a minute and more.
        """
        self.wait_until_empty()
        self._write()
        self._end_master()
        self._run(PROGRAM, "start")
        self._wait_for_greeting()

    # --- mail ---

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, tuple[int, bytes]]:
        """By SMTP, as a stranger's server does; the recipients that were refused. All refused raises
        SMTPRecipientsRefused."""
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="stranger.test") as client:
            return client.sendmail(sender, list(recipients), message)

    def mails(self) -> list[Mail]:
        """What was delivered into the maildir so far, oldest first. A file is there whole or not at all."""
        paths = [*(self.directory / "mail/all/new").glob("*")]
        return [_mail(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]

    def mails_to(self, recipient: str) -> list[Mail]:
        return [each for each in self.mails() if each.recipient == recipient]

    def queue(self) -> list[dict[str, Any]]:
        """What is queued, as ``postqueue -j`` tells: queue_name, queue_id, sender, recipients (with
        delay_reason) and more."""
        listed = self._run("/usr/sbin/postqueue", "-j")
        return [json.loads(line) for line in listed.splitlines()]

    def flush(self) -> None:
        """Try everything that is deferred now."""
        self._run("/usr/sbin/postqueue", "-f")

    def wait_until_empty(self, patience_s: float = EMPTY_WITHIN_S) -> None:
        """Until every message was delivered or returned."""
        deadline = time.monotonic() + patience_s
        while left := self.queue() or self.queue():  # twice: one look may miss what is being moved
            assert time.monotonic() < deadline, left[:5]
            time.sleep(0.1)

    def wait_for_log(self, text: str, patience_s: float = EMPTY_WITHIN_S) -> None:
        """Until it says so: its lines come a little after what they tell of, and may be lost at a reload."""
        deadline = time.monotonic() + patience_s
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    @property
    def log(self) -> str:
        path = self.directory / "maillog"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- parts ---

    def _write(self) -> None:
        values: dict[str, str] = {}
        for line in self._main().splitlines():
            name, equals, value = line.partition("=")
            if equals:
                values[name.strip()] = value.strip()
        values |= self.parameters
        files = {
            "main.cf": "".join(f"{name} = {value}\n" for name, value in values.items()),
            "master.cf": MASTER.format(smtp=f"127.0.0.1:{self.port}", smtps=f"127.0.0.1:{self.tls_port}")
            + (MASTER6.format(smtp6=self.port6) if self.port6 else ""),
            "replies": "".join(f"{who} {reply}\n" for who, reply in self.replies.items()),
            "transport": "".join(self._transports()),
        }
        for name, text in files.items():
            _place(self.directory / name, text)

    def _main(self) -> str:
        text = MAIN.format(dir=self.directory, hostname=self.hostname)
        if self.tls is not None:
            text += TLS.format(cert=self.tls.certificate, key=self.tls.key)
        return text + (SASL if self.logins else "")

    def _transports(self) -> list[str]:
        lines = []
        for domain, port in self.lmtp.items():
            pattern = domain.replace(".", r"\.")
            lines.append(f"/@{pattern}$/ lmtp:inet:127.0.0.1:{port}\n")
        return [*lines, "/./ virtual:\n"]

    def _start_dovecot(self) -> None:
        folder = self.directory / "sasl"
        (folder / "run").mkdir(parents=True, exist_ok=True)
        users = "".join(f"{user}:{{PLAIN}}{password}\n" for user, password in self.logins.items())
        (folder / "users").write_text(users)
        config = folder / "dovecot.conf"
        config.write_text(DOVECOT.format(dir=self.directory, mechanisms=self.mechanisms))
        command = ["/usr/sbin/dovecot", "-F", "-c", str(config)]
        self._dovecot = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not (self.directory / "queue/private/auth").exists():
            log = folder / "log"
            told = log.read_text() if log.exists() else ""
            assert self._dovecot.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def _end_master(self) -> None:
        """It takes its children along. (``postfix stop`` looks once a second.)"""
        master = int((self.directory / "queue/pid/master.pid").read_text())
        handle = os.pidfd_open(master)  # it tells of the end even if nobody has asked for its status yet
        try:
            os.kill(master, signal.SIGTERM)
            ended, _, _ = select.select([handle], [], [], ENDS_WITHIN_S)
            assert ended, self.log
        finally:
            os.close(handle)

    def _is_running(self) -> bool:
        done = subprocess.run(
            [PROGRAM, "-c", str(self.directory), "status"], capture_output=True, check=False
        )
        return done.returncode == 0

    def _run(self, program: str, *arguments: str) -> str:
        command = [program, "-c", str(self.directory), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self.log}")
        return done.stdout

    def _wait_for_greeting(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                smtplib.SMTP("127.0.0.1", self.port, timeout=STARTS_WITHIN_S).quit()
            except (OSError, smtplib.SMTPException) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"postfix does not answer:\n{self.log}") from error
                time.sleep(0.05)
            else:
                return


def _place(path: Path, text: str) -> None:
    """At once, and as if written long ago: a program of Postfix that reads a file of this second reads it
    again until it is older, and keeps what only an earlier reading had."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    an_hour_ago = time.time() - 3600
    os.utime(new, (an_hour_ago, an_hour_ago))
    new.replace(path)


def _mail(path: Path) -> Mail:
    content = path.read_bytes()
    head = dict(line.decode().split(": ", 1) for line in content.split(b"\n", 3)[:3])
    return Mail(head["Delivered-To"], head["Return-Path"][1:-1], content)
