"""What stands before a password check: blocks and delays, by the rules of one server on the node's counts.

Theory: the limiter is a pure model (``ratelimit``); here are its clock, its waiting and its effects. Whatever
the cause of a refusal, the client sees what it sees for a wrong password, and sees it after about the time
that a check takes; only the log knows better. Delays come before the check, or hanging up would tell a
guesser the answer early.

A refused or overflowing attempt is not counted: nothing was learnt from it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .config.servertypes import LOGIN
from .ratelimit import (
    Attempt,
    Block,
    Capacity,
    Delta,
    Limiter,
    Rules,
    Subject,
    Verdict,
    parse_address,
    render,
)
from .ratelimit.exemptions import Exemptions
from .steadyclock import SteadyClock
from .waiting import Turns, WaitingRoom

if TYPE_CHECKING:
    from protocols.ports import Identity, Peer

    from .config import AuthRateLimit, Config, Server
    from .units import Network

log = logging.getLogger("sora.authn")

MAX_REFUSALS_WAITING = 10  # per address
MAX_CHECKS = 1000  # of one user from one address at a time, where failures are not limited
SWEEP_INTERVAL_S = 300.0
LOGIN_TYPES = frozenset(LOGIN.split())
SWEEP_PAUSE_S = 0.1  # others want the loop, too


@dataclass(frozen=True, slots=True)
class Decision:
    """``identity`` None: no. ``refused_by``: a rule said so, the password was not looked at."""

    identity: Identity | None
    refused_by: str = ""


Decide = Callable[[], Awaitable[Decision]]


class Guard(Protocol):
    async def judge(self, peer: Peer, user: str, password: bytes, decide: Decide) -> Decision:
        """``decide`` is asked, or not. Raises AuthenticationUnavailable, as ``decide`` may."""
        ...


class OpenGuard:
    """No rules at all."""

    async def judge(self, peer: Peer, user: str, password: bytes, decide: Decide) -> Decision:
        return await decide()


@dataclass(slots=True)
class Shared:
    """What all servers of a node share. ``clock`` gives seconds of the epoch and never steps."""

    limiter: Limiter
    clock: Callable[[], float]
    room: WaitingRoom
    turns: Turns
    check_takes_s: Callable[[], float]
    tell: Callable[[Delta], None]  # the other nodes
    welcomed: Callable[[Subject], None] = lambda _subject: None  # somebody logged in from there


class LoginGuard:
    """One server's rules; also its ``protocols.ports.Admission``."""

    def __init__(self, rules: Rules, exemptions: Exemptions, shared: Shared) -> None:
        self.rules = rules
        self.exemptions = exemptions
        self._shared = shared

    def refuses(self, peer: Peer) -> bool:
        address = parse_address(peer.ip)
        if address is None or self.exemptions.why(address, peer.local_ip) is not None:
            return False
        return self._shared.limiter.refuses(self.rules, address, self._shared.clock()) is not None

    async def judge(self, peer: Peer, user: str, password: bytes, decide: Decide) -> Decision:
        address = parse_address(peer.ip)
        if address is None or self.exemptions.why(address, peer.local_ip) is not None:
            return await decide()
        attempt = self._shared.limiter.attempt(self.rules, address, user, password)
        crowd = await self._delay(attempt)
        if crowd:
            return Decision(None, crowd)
        # of guesses that are sent all at once less than twice the budget is checked
        async with self._shared.turns.turn(attempt.pair, self._checks_at_once):
            block = self._judge(attempt).block
            if block is None:
                return await self._decide(attempt, decide)
        return await self._refuse(attempt, block)

    @property
    def _checks_at_once(self) -> int:
        return (self.rules.is_enabled and self.rules.user_failures) or MAX_CHECKS

    async def _delay(self, attempt: Attempt) -> str:
        """Wait as long as earlier failures demand; or what refuses to wait."""
        verdict = self._judge(attempt)
        most = self.rules.max_delayed
        if verdict.block is None and not await self._shared.room.wait(
            attempt.subject, verdict.delay_s, most=most
        ):
            return "too many delayed logins"
        return ""

    def _judge(self, attempt: Attempt) -> Verdict:
        return self._shared.limiter.judge(self.rules, attempt, self._shared.clock())

    async def _refuse(self, attempt: Attempt, block: Block) -> Decision:
        """After about the time that a check takes."""
        shared = self._shared
        await shared.room.wait(attempt.subject, shared.check_takes_s(), most=MAX_REFUSALS_WAITING)
        return Decision(None, f"blocked by {block.rule}")

    async def _decide(self, attempt: Attempt, decide: Decide) -> Decision:
        decision = await decide()
        if decision.identity is None:
            self._failed(attempt)
        else:
            self._shared.limiter.succeeded(self.rules, attempt, self._shared.clock())
            self._shared.welcomed(attempt.subject)
        return decision

    def _failed(self, attempt: Attempt) -> None:
        shared = self._shared
        now = shared.clock()
        counted = shared.limiter.failed(self.rules, attempt, now)
        for delta in counted.deltas:
            shared.tell(delta)
        for block in counted.blocks:
            _log_block(block)
        if counted.is_reported:
            log.warning(
                "%d failed logins within %.0f s from all addresses (users are never blocked)",
                self.rules.reported_failures,
                self.rules.reported_window_s,
                extra={"fields": {"user": attempt.user[:320]}},
            )


def _log_block(block: Block) -> None:
    log.warning(
        "blocked by rule %s after %d failures, for %.0f s, level %d",
        *(block.rule, block.count, block.until - block.since, block.level),
        extra=_about(block.subject, block.user),
    )


def _about(subject: Subject, user: str = "") -> dict[str, object]:
    return {"fields": {"ip": render(subject)} | ({"user": user} if user else {})}


def rules_of(options: AuthRateLimit) -> Rules:
    return Rules(
        is_enabled=options.enabled,
        user_failures=options.max_attempts_per_ip_username,
        user_window_s=options.ip_username_window_duration_s,
        user_block_s=options.ip_username_block_duration_s,
        address_failures=options.max_attempts_per_ip,
        address_window_s=options.ip_window_duration_s,
        address_block_s=options.ip_block_duration_s,
        fast_users=options.fast_block_threshold,
        fast_block_s=options.fast_block_duration_s,
        reported_failures=options.max_attempts_per_username,
        reported_window_s=options.username_window_duration_s,
        delay_after=options.delay_start_threshold,
        first_delay_s=options.initial_delay_s,
        max_delay_s=options.max_delay_s,
        delay_factor=options.delay_multiplier,
        max_delayed=options.max_concurrent_delays_per_ip,
        max_block_s=options.max_block_duration_s,
        ipv6_prefix=options.ipv6_prefix,
    )


def capacity_of(servers: Iterable[Server]) -> Capacity:
    """The largest any server asks for: the records are shared."""
    options = [server.auth_rate_limit for server in servers]
    least = Capacity(1, 1, 1)
    return Capacity(
        pairs=max((each.max_ip_username_entries for each in options), default=least.pairs),
        addresses=max((each.max_ip_entries for each in options), default=least.addresses),
        users=max((each.max_username_entries for each in options), default=least.users),
    )


class Guards:
    """The guards of all servers of a node, on one model.

    For a cluster: ``tell`` is called with every delta the others should hear, ``absorb`` takes theirs, and
    ``peers`` answers the addresses of the other nodes. ``clock`` times everything and never steps.
    """

    def __init__(
        self,
        config: Config,
        *,
        check_takes_s: Callable[[], float],
        clock: Callable[[], float] | None = None,
        secret: bytes | None = None,
    ) -> None:
        node = config.cluster.node_id or socket.gethostname()
        secret = secret or secrets.token_bytes(16)
        self.limiter = Limiter(secret=secret, node=node, capacity=capacity_of(config.servers))
        self.clock = clock or SteadyClock()
        self.room = WaitingRoom()
        self.tell: Callable[[Delta], None] = lambda _delta: None
        self.peers: Callable[[], Collection[str]] = tuple
        # what the other processes of this node must know
        self.mirror: Callable[[Delta], None] = lambda _delta: None
        self.welcomed: Callable[[Subject], None] = lambda _subject: None
        self._shared = Shared(
            *(self.limiter, self.clock, self.room, Turns(), check_takes_s, self._spread),
            lambda subject: self.welcomed(subject),
        )
        self._trusted = config.trusted_networks
        self._guards: dict[str, LoginGuard] = {}
        intervals = [server.auth_rate_limit.cleanup_interval_s for server in config.servers]
        self._sweep_interval_s = min(intervals, default=SWEEP_INTERVAL_S)

    def _spread(self, delta: Delta) -> None:
        self.mirror(delta)
        self.tell(delta)

    def of(self, server: Server) -> LoginGuard | None:
        """The same one for the same server; None where nobody logs in."""
        if server.type not in LOGIN_TYPES:
            return None
        guard = self._guards.get(server.name)
        if guard is None:
            guard = LoginGuard(*self._settings(server, self._trusted), self._shared)
            self._guards[server.name] = guard
        return guard

    def _settings(self, server: Server, trusted: Sequence[Network]) -> tuple[Rules, Exemptions]:
        options = server.auth_rate_limit
        return rules_of(options), Exemptions(options.exempt_networks, trusted, lambda: self.peers())

    def reload(self, config: Config) -> None:
        """Rules and exemptions of a configuration that was read again; counts and blocks stay.

        The sizes of the tables stay too, until a restart.
        """
        self._trusted = config.trusted_networks
        for server in config.servers:
            guard = self._guards.get(server.name)
            if guard is not None:
                guard.rules, guard.exemptions = self._settings(server, self._trusted)

    def __iter__(self) -> Iterator[tuple[str, LoginGuard]]:
        return iter(self._guards.items())

    def add(self, subject: Subject, *, lasts_s: float | None, reason: str) -> Block:
        """An operator's block; the other nodes hear of it. Raises TooManyBlocks."""
        block = self.limiter.add(subject, self.clock(), lasts_s=lasts_s, reason=reason)
        log.warning("blocked by an operator: %s", reason or "no reason given", extra=_about(subject))
        self._spread(block)
        return block

    def remove(self, subject: Subject, *, user: str | None = None) -> list[Block]:
        """End the blocks of a subject, here and on the other nodes, and forget what led to them."""
        ended = self.limiter.remove(subject, self.clock(), user=user)
        for block, word in ended:
            log.warning("unblocked, rule %s", block.rule, extra=_about(subject, block.user))
            if not block.user:
                self._spread(word)
        return [block for block, _ in ended]

    def absorb(self, delta: Delta) -> bool:
        """What another node says; whether it was news."""
        is_news = self.limiter.absorb(delta, self.clock())
        if is_news:
            self.mirror(delta)
        return is_news

    def forget(self, subject: int, origin: str) -> None:
        """What another node counted is over, or the node is gone."""
        self.limiter.forget(Subject(subject), origin)

    async def run(self, stop: asyncio.Event) -> None:
        """Frees memory until stopped."""
        while not stop.is_set():
            has_more = self.limiter.sweep(self.clock())
            pause_s = SWEEP_PAUSE_S if has_more else self._sweep_interval_s
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                continue

    def close(self) -> None:
        """Nobody waits for an answer any longer."""
        self.room.close()
