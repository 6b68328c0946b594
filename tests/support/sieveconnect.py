"""sieve-connect (Debian's), as a user edits scripts with it: over STARTTLS, certificates verified."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from tests.support.nodeprocess import NodeProcess

CLIENT_TIMEOUT_S = 60


@dataclass(frozen=True)
class SieveConnect:
    """Of one user. Call with the arguments that name the action."""

    node: NodeProcess
    user: str
    password: str

    def __call__(self, *arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
        reading, writing = os.pipe()
        try:
            os.write(writing, (password or self.password).encode() + b"\n")
            os.close(writing)
            return subprocess.run(
                [
                    *("sieve-connect", "--server", "localhost", "--4"),
                    *("--port", str(self.node.port("managesieve"))),
                    *("--tlscafile", str(self.node.certificate), "--noclearchan"),
                    *("--user", self.user, "--passwordfd", str(reading), *arguments),
                ],
                pass_fds=[reading],
                capture_output=True,
                text=True,
                timeout=CLIENT_TIMEOUT_S,
                check=False,
            )
        finally:
            os.close(reading)

    def install(self, path: str, name: str = "main") -> None:
        """Upload the file and make it the active script."""
        for arguments in (
            ("--upload", "--localsieve", path, "--remotesieve", name),
            ("--activate", "--remotesieve", name),
        ):
            done = self(*arguments)
            assert done.returncode == 0, (arguments, done.stdout, done.stderr)
