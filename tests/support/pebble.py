"""Let's Encrypt's test CA as processes, with a stub in front that counts, refuses and adds what it lacks.

``pebble`` has no renewal information, profiles, rate limits or Retry-After. The stub passes every request on
unchanged (the Host too, so that the CA's links and the signed URLs are the stub's) and answers some itself::

    with Pebble(PebbleOptions(http_port=port)) as ca:
        CaSettings(ca.directory, ca_file=ca.ca_file)
        ca.front.add(Rule("new-order", status=429, headers={"Retry-After": "7"}))
        assert ca.front.count("new-order") == 1

All is on loopback or on the address in the options; state is gone with the process.
"""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.ports import free_port
from tls.selfsigned import self_signed

from .acmefront import Front, Rule, Seen

__all__ = ["Front", "Pebble", "PebbleOptions", "Rule", "Seen", "pebble", "require_pebble"]

EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@dataclass(frozen=True, slots=True)
class PebbleOptions:
    """``http_port``: where the validation asks for HTTP-01; 0: a free one is picked.

    ``dns_server``: host:port of a name server; empty: challtestsrv, where every name is ``names_at``.
    """

    ip: str = "127.0.0.1"
    http_port: int = 0
    names_at: str = "127.0.0.1"
    dns_server: str = ""
    reject_nonces_percent: int = 0
    reuse_authorisations_percent: int = 0
    external_accounts: bool = False  # only with EAB_KID and EAB_KEY
    validity_s: int = 0  # 0: five years
    blocklist: tuple[str, ...] = ()
    alternate_roots: int = 0
    chain_length: int = 1


def require_pebble() -> None:
    """A loud skip without Debian's package."""
    for program in ("pebble", "pebble-challtestsrv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; .ci/run installs it")


class Pebble:
    """Use as a context manager. ``directory``: through the stub; ``ca_file``: the root of its HTTPS."""

    def __init__(self, options: PebbleOptions | None = None) -> None:
        options = options or PebbleOptions()
        self.options = replace(options, http_port=options.http_port or free_port(options.ip))
        self._folder = tempfile.TemporaryDirectory(prefix="pebble-")
        self.folder = Path(self._folder.name)
        self.ca_file = str(self.folder / "directory.pem")
        self._port, self._management, self._dns, self._dns_management, self._tls = (
            free_port(options.ip) for _ in range(5)
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._names: subprocess.Popen[bytes] | None = None
        self._write()
        self._trust = ssl.create_default_context(cafile=self.ca_file)
        self.front = Front(self.folder, options.ip, self._host, f"https://{options.ip}:{self._port}")
        self.front.lets_reuse = options.reuse_authorisations_percent > 0

    # --- life ---

    def __enter__(self) -> Pebble:
        try:
            if not self.options.dns_server:
                self._start_names()
            self.start()
            self.front.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.front.stop()
        self.stop()
        if self._names is not None:
            self._names.kill()
            self._names.wait()
        self._folder.cleanup()

    def start(self) -> None:
        """Again after ``stop``: with no memory of accounts, orders and roots."""
        assert self.process is None
        dns = self.options.dns_server or f"{self.options.ip}:{self._dns}"
        command = ["pebble", "-config", str(self.folder / "pebble.json"), "-dnsserver", dns, "-strict"]
        self.process = self._spawn(command, "pebble.log", self._environment())
        self._until(lambda: self._get(f"https://{self.options.ip}:{self._port}/dir"), "pebble answers")

    def stop(self) -> None:
        """A dead CA: its port is closed; the stub answers 502."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """It takes connections and says nothing, until ``go_on``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    # --- what clients need ---

    @property
    def directory(self) -> str:
        return f"https://{self._host}:{self.front.port}/dir"

    @property
    def direct_directory(self) -> str:
        """Past the stub: nothing is counted or changed."""
        return f"https://{self._host}:{self._port}/dir"

    # --- what tests ask ---

    def root_pem(self, number: int = 0) -> bytes:
        return self._get(self._manage(f"/roots/{number}"))

    def intermediate_pem(self, number: int = 0) -> bytes:
        return self._get(self._manage(f"/intermediates/{number}"))

    def certificate_status(self, chain_pem: bytes) -> str:
        """ "Valid" or "Revoked"."""
        serial = x509.load_pem_x509_certificate(chain_pem).serial_number
        answer = json.loads(self._get(self._manage(f"/cert-status-by-serial/{serial:x}")))
        return str(answer["Status"])

    def names_command(self, path: str, **body: object) -> None:
        """Of challtestsrv: ("/add-a", host="a.test.", addresses=["127.0.0.2"]); names have a final dot."""
        url = f"http://{self.options.ip}:{self._dns_management}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200, path

    def log(self) -> str:
        return (self.folder / "pebble.log").read_text(errors="replace")

    # --- inside ---

    @property
    def _host(self) -> str:
        return "localhost" if self.options.ip.startswith("127.") else self.options.ip

    def _manage(self, path: str) -> str:
        return f"https://{self.options.ip}:{self._management}{path}"

    def _get(self, url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=60, context=self._trust) as answer:
            content: bytes = answer.read()
            return content

    def _write(self) -> None:
        certificate, key = self_signed(["localhost", self.options.ip], datetime.now(UTC))
        Path(self.ca_file).write_bytes(certificate)
        (self.folder / "directory.key").write_bytes(key)
        config = {
            "listenAddress": f"{self.options.ip}:{self._port}",
            "managementListenAddress": f"{self.options.ip}:{self._management}",
            "certificate": self.ca_file,
            "privateKey": str(self.folder / "directory.key"),
            "httpPort": self.options.http_port,
            "tlsPort": self._tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.options.external_accounts,
            "domainBlocklist": list(self.options.blocklist),
        }
        if self.options.external_accounts:
            config["externalAccountMACKeys"] = {EAB_KID: EAB_KEY}
        if self.options.validity_s:
            config["certificateValidityPeriod"] = self.options.validity_s
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": config}))

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(self.options.reject_nonces_percent),
            "PEBBLE_AUTHZREUSE": str(self.options.reuse_authorisations_percent),
            "PEBBLE_ALTERNATE_ROOTS": str(self.options.alternate_roots),
            "PEBBLE_CHAIN_LENGTH": str(self.options.chain_length),
        }

    def _start_names(self) -> None:
        # The default AAAA ::1 would win over the A record.
        command = ["pebble-challtestsrv", "-defaultIPv4", self.options.names_at, "-defaultIPv6", ""]
        command += ["-dns01", f"{self.options.ip}:{self._dns}"]
        command += ["-management", f"{self.options.ip}:{self._dns_management}"]
        command += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
        self._names = self._spawn(command, "names.log", {"PATH": "/usr/bin:/bin"})
        self._until(lambda: self.names_command("/clear-request-history"), "challtestsrv answers")

    def _spawn(
        self, command: Sequence[str], log: str, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=self.folder)

    def _until(self, ask: Any, what: str, limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                ask()
            except urllib.error.HTTPError:
                return  # it speaks, which is all we wanted
            except OSError:
                logs = "".join(path.read_text(errors="replace")[-800:] for path in self.folder.glob("*.log"))
                assert time.monotonic() < deadline, f"not in {limit_s} s: {what}: {logs}"
                time.sleep(0.02)
            else:
                return


@pytest.fixture(scope="session")
def pebble() -> Iterator[Pebble]:
    """One CA for all tests of the session. Rules that a test adds to the stub are gone after it only by
    ``front.clear()``; tests that stop, restart or configure the CA start their own."""
    require_pebble()
    with Pebble() as ca:
        yield ca
