"""A Sieve engine for sessions under test: what it finds in a script is written in the script."""

from __future__ import annotations

from protocols.managesieve.compiler import Verdict


class MarkedCompiler:
    """Every line of a script that begins with ``error`` or ``warning`` is one."""

    def __init__(self) -> None:
        self.extensions = ("fileinto", "vacation")
        self.notify_schemes: tuple[str, ...] = ()
        self.list_schemes: tuple[str, ...] = ()
        self.max_redirects: int | None = None
        self.checked: list[bytes] = []
        self.faults: list[Exception] = []

    async def check(self, script: bytes) -> Verdict:
        self.checked.append(script)
        if self.faults:
            raise self.faults.pop(0)
        lines = script.decode("utf-8", "replace").splitlines()
        return Verdict(
            errors="\n".join(line for line in lines if line.startswith("error")),
            warnings="\n".join(line for line in lines if line.startswith("warning")),
        )
