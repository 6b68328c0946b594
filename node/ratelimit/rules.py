"""The numbers of ``auth_rate_limit``: how many failures, in which time, lead to what."""

from __future__ import annotations

from dataclasses import dataclass

# Whoever logged in before from a network mistypes; strangers guess.
FAMILIAR_FACTOR = 4
# Many people may share an address, so its failures delay others only a fifth as fast as their own do.
ADDRESS_FAILURES_PER_STEP = 5
FAST_WINDOW_S = 60.0
_MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one server. Times in seconds; a count of 0 switches its rule off.

    All servers of a node count together; each judges by its own rules.
    """

    is_enabled: bool = True
    user_failures: int = 5
    user_window_s: float = 600.0
    user_block_s: float = 900.0
    address_failures: int = 50
    address_window_s: float = 1800.0
    address_block_s: float = 1800.0
    fast_users: int = 10  # different users in a row, within FAST_WINDOW_S
    fast_block_s: float = 300.0
    reported_failures: int = 10  # of one user from anywhere: reported, never blocked
    reported_window_s: float = 3600.0
    delay_after: int = 2
    first_delay_s: float = 1.0
    max_delay_s: float = 30.0
    delay_factor: float = 2.0
    max_delayed: int = 10  # per address
    max_block_s: float = 86_400.0
    ipv6_prefix: int = 64

    def user_budget(self, *, is_familiar: bool) -> int:
        return self.user_failures * (FAMILIAR_FACTOR if is_familiar else 1)

    def delay_s(self, user_failures: int, address_failures: int, *, is_familiar: bool) -> float:
        """How long the next attempt waits for its answer."""
        if not self.delay_after:
            return 0.0
        after = self.delay_after * (FAMILIAR_FACTOR if is_familiar else 1)
        steps = user_failures - after
        if not is_familiar:
            steps = max(steps, address_failures // ADDRESS_FAILURES_PER_STEP - after)
        if steps < 0:
            return 0.0
        growth = float(self.delay_factor ** min(steps, _MAX_DOUBLINGS))
        return min(self.first_delay_s * growth, self.max_delay_s)

    def block_s(self, first_s: float, level: int) -> float:
        """Each block is twice as long as the one before, up to ``max_block_s``."""
        return max(first_s, min(first_s * 2.0 ** min(level, _MAX_DOUBLINGS), self.max_block_s))
