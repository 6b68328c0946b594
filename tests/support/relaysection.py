"""The part of a node's configuration that has it relay to a server on this machine."""

from __future__ import annotations

import json
from pathlib import Path


def relay_section(port: int, path: Path, **queue: int | str) -> str:
    """``queue``: more options of [relay_queue]. What fails is tried again after a second."""
    options = {"path": str(path), "worker_interval": "1s", "retry_backoff": ["1s"], **queue}
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    relay = f'[relay]\ntype = "smtp"\nsmtp_host = "127.0.0.1:{port}"\nsmtp_tls = false\n'
    return "\n".join(["", relay, "[relay_queue]", *lines, ""])


def undeterred(port: int, path: Path, *, max_attempts: int, concurrency: int) -> str:
    """It tries again at once whatever happens, and no failure makes it pause."""
    return relay_section(
        port,
        path,
        max_attempts=max_attempts,
        concurrency=concurrency,
        circuit_breaker_threshold=1000,
        circuit_breaker_timeout="1s",
    )
