"""Answers to HTTP-01 challenges as a part of a node: one listener, in the process that has the gossip."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tls.challenges import Challenges, Miss, Source

from .certificates import issued_names
from .health import OK, Finding, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .challengeserver import ChallengeServer, Store
    from .config import Config
    from .metrics.registry import Reading
    from .monitoring import Monitoring
    from .sockets import Sockets


async def _no_store(_token: str) -> str | None:
    return None


class ChallengePart:
    """``challenges`` is filled by who knows of orders, in the loop's time; ``store`` may be set by who has
    one."""

    def __init__(self, config: Config, sockets: Sockets) -> None:
        self.challenges = Challenges(issued_names(config))
        self.store: Store = _no_store
        self.server: ChallengeServer | None = None
        self._redirects = config.tls.letsencrypt.redirect_to_https
        self._port = sockets.challenges

    @property
    def trouble(self) -> str:
        """Why this node cannot answer; empty: it can, or need not."""
        return self._port.trouble if self._port is not None else ""

    async def open(self, exit_stack: AsyncExitStack) -> None:
        """Never raises for a port that cannot be had."""
        if self._port is None or not self._port.sockets:
            return
        from .challengeserver import ChallengeServer  # aiohttp takes 0.15 s and 16 MB

        server = ChallengeServer(
            self.challenges, lambda token: self.store(token), redirects_to_https=self._redirects
        )
        exit_stack.push_async_callback(server.close)
        try:
            await server.open(self._port.sockets)
        except OSError as error:
            await server.close()
            self._port.fail(error)
            return
        self.server = server

    def obey(self, config: Config) -> None:
        """Names of a configuration that was read again."""
        self.challenges.names = issued_names(config)

    def monitor(self, monitoring: Monitoring) -> None:
        if self._port is not None:
            monitoring.checker.add("challenges", self._check)
            monitoring.registry.add(self.figures)

    def figures(self) -> Iterator[Reading]:
        for result in (*Source, *Miss):
            yield "sora_challenge_requests_total", (result.value,), self.challenges.counts[result.value]
        yield "sora_challenge_port_open", (), self.server is not None
        if self.server is not None:
            yield "sora_challenge_connections_refused_total", (), self.server.refused

    async def _check(self) -> Finding:
        return Finding(State.DEGRADED, self.trouble) if self.trouble else OK
