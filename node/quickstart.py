"""A first node from nothing: secrets, certificate and ``config.toml`` in one directory, then an account.

Nothing here is magic: whatever is made is written down in the ``config.toml``, and ``sora-node run
--config`` with that file starts the same node. A directory that has one already is started as it is.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tls.selfsigned import self_signed

AUTO_PORTS = range(20_000, 32_000)
STANDARD_PORTS = {"imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "lmtp": 24, "managesieve": 4190}
HIGH_PORTS = {"imap": 1143, "imaps": 1993, "pop3": 1110, "pop3s": 1995, "lmtp": 2424, "managesieve": 4190}
BUCKET = "sora-mail"

TEMPLATE = """\
# Written by `sora-node quickstart`; `sora-node run --config {config}` starts the same node.
hostname = "{hostname}"
# Processes that serve clients; 0 is one per CPU.
workers = 1

[embedded]
# A private PostgreSQL, started and stopped with the node. Remove this line to use a server of your own.
postgres_path = "{data}/postgres"
{rclone}
[database.write]
hosts = ["{socket_directory}"]
user = "sora"
password_file = "{data}/postgres.password"
name = "sora_mail_db"
max_connections = 40

{s3}
[local_cache]
path = "{data}/cache"
capacity = "1gb"

[uploader]
path = "{data}/staging"

[tls]
enabled = true
provider = "file"
cert_file = "{data}/cert.pem"
key_file = "{data}/key.pem"
"""

SERVER = """
[[servers]]
type = "{type}"
name = "{name}"
addr = "{host}:{port}"
"""

# Whoever tries the node out is alone on it.
SEARCH_FREELY = "limits.search_rate_limit_per_min = 0\n"

FILE_STORE = """\
[s3]
driver = "file"
path = "{data}/objects"
"""

RCLONE_STORE = """\
[s3]
endpoint = "127.0.0.1:{port}"
disable_tls = true
bucket = "{bucket}"
access_key = "{access_key}"
secret_key_file = "{data}/s3.secret"
"""


@dataclass(frozen=True)
class Wish:
    """What the command line asked for."""

    data: Path  # absolute
    s3: str = "file"  # "file" or "rclone"
    host: str = "127.0.0.1"
    ports: str = ""  # "standard", "high", "auto", "20000-20999"; "": standard for root, else high
    address: str = "test@sora.localhost"


@dataclass(frozen=True)
class Made:
    """What is there now; ``password`` is empty when the account existed before."""

    config: Path
    address: str
    password_file: Path
    is_new: bool


def prepare(wish: Wish, socket_directory: Path) -> Made:
    """Write what is missing. The ``config.toml`` comes last: a start that was interrupted begins again."""
    wish.data.mkdir(parents=True, exist_ok=True)
    config = wish.data / "config.toml"
    made = Made(config, wish.address, wish.data / "account.password", is_new=not config.exists())
    if not made.is_new:
        return made
    _secret(wish.data / "postgres.password")
    _secret(made.password_file)
    cert, key = self_signed(["localhost", "127.0.0.1", "::1", socket.gethostname()], datetime.now(UTC))
    _private(wish.data / "key.pem", key)
    (wish.data / "cert.pem").write_bytes(cert)
    text = _render(wish, socket_directory)
    _private(config.with_suffix(".new"), text.encode())
    config.with_suffix(".new").rename(config)
    return made


def _render(wish: Wish, socket_directory: Path) -> str:
    data = str(wish.data)
    ports = _choose_ports(wish)
    rclone, s3 = "", FILE_STORE.format(data=data)
    if wish.s3 == "rclone":
        _secret(wish.data / "s3.secret")
        rclone = (
            "# An S3 server for first steps. It does not fsync: a power cut can take uploaded mail.\n"
            f'rclone_path = "{data}/objects"\n'
        )
        s3 = RCLONE_STORE.format(
            port=_free_ports(1, _auto_ports(wish))[0],
            bucket=BUCKET,
            access_key=f"quickstart{secrets.token_hex(5)}",
            data=data,
        )
    text = TEMPLATE.format(
        config=wish.data / "config.toml",
        hostname="localhost",
        data=data,
        rclone=rclone,
        socket_directory=socket_directory,
        s3=s3,
    )
    for name, port in ports.items():
        text += SERVER.format(type=name.removesuffix("s"), name=name, host=wish.host, port=port)
        text += "tls = true\n" if name.endswith("s") else ""
        text += SEARCH_FREELY if name.startswith("imap") else ""
    return text


def _choose_ports(wish: Wish) -> dict[str, int]:
    kind = wish.ports or ("standard" if os.geteuid() == 0 else "high")
    if kind == "standard":
        return STANDARD_PORTS
    if kind == "high":
        return HIGH_PORTS
    return dict(zip(STANDARD_PORTS, _free_ports(len(STANDARD_PORTS), _auto_ports(wish)), strict=True))


def _auto_ports(wish: Wish) -> range:
    """The default lies below the ports that the system gives to connections: such a one could be taken again
    before the node listens on it."""
    first, dash, last = wish.ports.partition("-")
    return range(int(first), int(last) + 1) if dash else AUTO_PORTS


def _free_ports(count: int, among: range) -> list[int]:
    """Different ones: each is held until all are found."""
    found: list[int] = []
    with ExitStack() as held:
        for port in secrets.SystemRandom().sample(among, len(among)):
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} ports are free between {among.start} and {among.stop - 1}")


def _secret(path: Path) -> None:
    if not path.exists():
        _private(path, secrets.token_urlsafe(18).encode())


def _private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
