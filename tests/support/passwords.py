"""Doubles for password checking: cheap real hashes, counted, and held back at will."""

from __future__ import annotations

import threading
from hashlib import pbkdf2_hmac

from node.passwords import hash_password, verify
from node.verify import PasswordVerifier


class Clock:
    """Monotonic seconds that only move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def cheap_hash(password: bytes) -> str:
    """PBKDF2 of one round is a costly scheme in name only."""
    return f"{{PBKDF2}}$1$salt$1${pbkdf2_hmac('sha1', password, b'salt', 1, 20).hex()}"


class CountedChecks:
    """Real checks; ``hold()`` keeps them waiting in their threads until ``release()``."""

    def __init__(self) -> None:
        self.stored: list[str] = []  # every hash checked, in order
        self._open = threading.Event()
        self._open.set()
        self.started = threading.Semaphore(0)

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def __call__(self, stored: str, password: bytes, *, allow_plain: bool = False) -> bool:
        self.stored.append(stored)
        self.started.release()
        assert self._open.wait(60), "a test forgot to release the checks"
        return verify(stored, password, allow_plain=allow_plain)

    @property
    def costly(self) -> list[str]:
        """Those that would take milliseconds."""
        return [each for each in self.stored if each.startswith(("{PBKDF2}", "{ARGON2ID}"))]


def verifier(
    checks: CountedChecks, clock: Clock, *, threads: int = 1, queue_limit: int = 8
) -> PasswordVerifier:
    return PasswordVerifier(
        threads=threads, clock=clock, queue_limit=queue_limit, check=checks, make=cheap_hash
    )


def ssha512(password: bytes) -> str:
    return hash_password(password, "SSHA512")
