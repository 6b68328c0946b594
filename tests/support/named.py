"""A name server of our own: Debian's ``named`` for one zone that takes signed updates, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tls.acme.rfc2136 import Rfc2136Settings

KEY_NAME, KEY_SECRET = "sora-test", "c29yYS10ZXN0LWtleS0wMTIzNDU2Nzg5YWJjZGVmMDEyMw=="

CONFIG = """
options {{
  directory "{folder}"; pid-file "{folder}/pid"; session-keyfile "{folder}/session.key";
  listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }};
  recursion no; dnssec-validation no; allow-transfer {{ none; }};
}};
controls {{ }};
key "{key}" {{ algorithm hmac-sha256; secret "{secret}"; }};
zone "{zone}" {{ type primary; file "{folder}/zone.db"; allow-update {{ key "{key}"; }}; }};
"""
ZONE = """$TTL 60
@ IN SOA ns1 admin 1 3600 600 86400 1
@ IN NS ns1
@ IN A {ip}
* IN A {ip}
ns1 IN A {ip}
"""


class Named:
    """Use as a context manager. Every name of ``zone`` is ``ip``."""

    def __init__(self, zone: str = "example.test", ip: str = "127.0.0.1") -> None:
        program = shutil.which("named", path="/usr/sbin:/usr/bin")
        if program is None:
            pytest.skip("named is not installed; .ci/run installs bind9")
        self.zone, self.ip, self.port = zone, ip, free_port(ip)
        self._folder = tempfile.TemporaryDirectory(prefix="named-")
        folder = Path(self._folder.name)
        (folder / "zone.db").write_text(ZONE.format(ip=ip))
        (folder / "named.conf").write_text(
            CONFIG.format(folder=folder, port=self.port, ip=ip, key=KEY_NAME, secret=KEY_SECRET, zone=zone)
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            command = [program, "-g", "-n", "1", "-c", str(folder / "named.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def settings(self, **more: object) -> Rfc2136Settings:
        values = {"server": self.ip, "port": self.port, "key_name": KEY_NAME, "key_secret": KEY_SECRET}
        return Rfc2136Settings(**{**values, **more})  # type: ignore[arg-type]

    def texts(self, name: str) -> set[str]:
        command = ["dig", "-r", "+short", "+time=2", f"@{self.ip}", "-p", str(self.port), "TXT", f"{name}."]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return {line.strip('"') for line in answer.stdout.splitlines()}

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _answers(self) -> bool:
        command = ["dig", "-r", "+short", "+time=1", "+tries=1", f"@{self.ip}", "-p", str(self.port), "SOA"]
        answer = subprocess.run([*command, f"{self.zone}."], capture_output=True, timeout=60, check=False)
        return answer.returncode == 0 and b"admin" in answer.stdout

    def __enter__(self) -> Named:
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()
