"""Password verification that the rest of the node can afford.

Theory: a hash check is meant to be expensive, so everything here avoids or bounds checks without
telling an outsider anything.

* Checks run in a pool of threads; beyond ``queue_limit`` waiting ones the answer is
  ``AuthenticationUnavailable``, never "wrong". The addresses that clients come from take turns, and when the
  queue is full the one with most in it gives way: a flood of guesses delays itself. Addresses whose last
  check failed get one turn in four while others wait. The threads leave the processors to the rest of the
  node where both want them.
* Equal requests that arrive while one is being checked wait for that one check.
* Outcomes are remembered for REMEMBER_S under a digest keyed with a random key of this process, over
  (subject, stored hash, password). A changed password changes the stored hash, so nothing remembered
  outlives it. Successes and failures have separate bounds: guessing cannot push out who logged in.
* An unknown user is checked against a dummy hash, by the same path with the same memory; only the
  verdict differs. A failed check of a cheap scheme pays for the dummy too.

Invariants: no password and no stored hash is kept, logged or put into an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from protocols.errors import AuthenticationUnavailable

from .fairqueue import FairQueue
from .passwords import BadHash, hash_password, is_costly, verify

REMEMBER_S = 300.0
MAX_REMEMBERED_SUCCESSES = 16_384
MAX_REMEMBERED_FAILURES = 2_048
# A check of the default profile is some 35 ms: whoever is last in this queue waits about two seconds,
# which clients do; longer queues only do work for clients that have gone.
QUEUE_PER_THREAD = 64
MAX_SUSPECTS = 16_384
SUSPECT_S = 60.0
NICER = 5  # a third of the processor's time where others want it, too
TOO_MANY = "too many password checks are waiting"
USUAL_CHECK_S = 0.04  # until one has been measured

_log = logging.getLogger("sora.authn")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``is_remembered``: answered from memory, so a repetition of what was tried before."""

    is_match: bool
    is_remembered: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One that waits or runs."""

    digest: bytes
    outcome: asyncio.Future[bool]
    subject: str
    stored: str
    password: bytes = field(repr=False)
    origin: int


class Remembered:
    """A bounded set of digests that expire; the least recently used goes first. O(1)."""

    def __init__(self, limit: int, ttl_s: float) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expiry)

    def add(self, digest: bytes, now: float) -> None:
        self._expiry[digest] = now + self._ttl_s
        self._expiry.move_to_end(digest)
        if len(self._expiry) > self._limit:
            self._expiry.popitem(last=False)

    def discard(self, digest: bytes) -> None:
        self._expiry.pop(digest, None)

    def has(self, digest: bytes, now: float) -> bool:
        """A hit does not prolong."""
        expiry = self._expiry.get(digest)
        if expiry is None:
            return False
        if expiry <= now:
            del self._expiry[digest]
            return False
        self._expiry.move_to_end(digest)
        return True


def _origin_key(origin: int) -> bytes:
    return b"%x" % origin


def _step_back() -> None:
    """Of this thread: sessions and the database come first, however many passwords are guessed."""
    with contextlib.suppress(OSError):  # a system that forbids it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICER)


class PasswordVerifier:
    """Belongs to one event loop. ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        *,
        threads: int,
        clock: Callable[[], float],
        queue_limit: int | None = None,
        allow_plain: bool = False,
        check: Callable[..., bool] = verify,
        make: Callable[[bytes], str] = hash_password,
    ) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sora-verify", initializer=_step_back)
        self._queue_limit = threads * QUEUE_PER_THREAD if queue_limit is None else queue_limit
        self._clock = clock
        self._allow_plain = allow_plain
        self._check = check
        self._make = make
        self._key = secrets.token_bytes(32)
        self._dummy = make(secrets.token_hex(32).encode())
        self._successes = Remembered(MAX_REMEMBERED_SUCCESSES, REMEMBER_S)
        self._failures = Remembered(MAX_REMEMBERED_FAILURES, REMEMBER_S)
        self._suspects = Remembered(MAX_SUSPECTS, SUSPECT_S)
        self._in_flight: dict[bytes, asyncio.Future[bool]] = {}
        self._queue: FairQueue[Check] = FairQueue()
        self._running = 0
        self.check_takes_s = USUAL_CHECK_S
        self._closed = False
        # match, mismatch, remembered, refused
        self.outcomes: Counter[str] = Counter()

    async def verify(self, subject: str, stored: str | None, password: bytes, *, origin: int = 0) -> Verdict:
        """Check ``password`` of ``subject`` (a credential or an unknown address) against ``stored``.

        None: there is no such user; costs what a known one costs and never matches. The password has
        passed ``passwords.refusal``. ``origin`` stands for the client's address: origins take turns.

        Raises AuthenticationUnavailable.
        """
        digest = self._digest(subject, stored or self._dummy, password)
        remembered = self._recall(digest)
        if remembered is not None:
            self.outcomes["remembered"] += 1
            return Verdict(remembered and stored is not None, is_remembered=True)
        future = self._in_flight.get(digest) or self._start(
            digest, subject, stored or self._dummy, password, origin
        )
        # wait() leaves the check alone when this caller is cancelled: others may wait for it too.
        await asyncio.wait([future])
        if future.cancelled():
            raise AuthenticationUnavailable("shutting down" if self._closed else TOO_MANY)
        try:
            is_match = future.result()
        except MemoryError as error:
            raise AuthenticationUnavailable("no memory for a password check") from error
        is_match = is_match and stored is not None
        self.outcomes["match" if is_match else "mismatch"] += 1
        return Verdict(is_match)

    @property
    def waiting(self) -> int:
        """Checks that run or wait for a thread."""
        return len(self._in_flight)

    async def hash(self, password: bytes) -> str:
        """A fresh default hash, made in the pool. Raises AuthenticationUnavailable after ``close``."""
        if self._closed:
            raise AuthenticationUnavailable("shutting down")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._make, password)

    def remember(self, subject: str, stored: str, password: bytes) -> None:
        """``password`` is known to be the one of ``stored``, which has just been made from it."""
        self._successes.add(self._digest(subject, stored, password), self._clock())

    async def close(self) -> None:
        """Checks that still queue are answered as unavailable; returns when the running ones are done."""
        self._closed = True
        while self._queue:
            self._queue.pop().outcome.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._in_flight:
            await asyncio.wait(list(self._in_flight.values()))

    def _digest(self, subject: str, stored: str, password: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in (
            subject.encode("utf-8", "surrogatepass"),
            stored.encode("utf-8", "surrogatepass"),
            password,
        ):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()

    def _recall(self, digest: bytes) -> bool | None:
        now = self._clock()
        if self._successes.has(digest, now):
            return True
        return False if self._failures.has(digest, now) else None

    def _start(
        self, digest: bytes, subject: str, stored: str, password: bytes, origin: int
    ) -> asyncio.Future[bool]:
        if self._closed:
            raise AuthenticationUnavailable("shutting down")
        if len(self._in_flight) >= self._queue_limit:
            given_way = self._queue.yield_to(origin)
            self.outcomes["refused"] += 1  # this one or that one
            if given_way is None:
                raise AuthenticationUnavailable(TOO_MANY)
            self._forget(given_way.digest, given_way.outcome)
            given_way.outcome.cancel()
        outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._in_flight[digest] = outcome
        outcome.add_done_callback(functools.partial(self._forget, digest))
        is_late = self._suspects.has(_origin_key(origin), self._clock())
        self._queue.put(origin, Check(digest, outcome, subject, stored, password, origin), is_late=is_late)
        self._run_next()
        return outcome

    def _forget(self, digest: bytes, outcome: asyncio.Future[bool]) -> None:
        if self._in_flight.get(digest) is outcome:
            del self._in_flight[digest]

    def _run_next(self) -> None:
        while self._queue and self._running < self._threads:
            check = self._queue.pop()
            self._running += 1
            future = asyncio.get_running_loop().run_in_executor(
                self._pool, self._run, check.subject, check.stored, check.password
            )
            future.add_done_callback(functools.partial(self._finished, check, self._clock()))

    def _finished(self, check: Check, started: float, done: asyncio.Future[bool]) -> None:
        self._running -= 1
        if done.cancelled():
            check.outcome.cancel()
        elif (error := done.exception()) is not None:
            check.outcome.set_exception(error)
        else:
            memory = self._successes if done.result() else self._failures
            memory.add(check.digest, self._clock())
            self._note(check.origin, is_match=done.result())
            check.outcome.set_result(done.result())
            # a slow average: what a refusal without a check should take, too
            self.check_takes_s += (self._clock() - started - self.check_takes_s) / 16
        if not self._closed:
            self._run_next()

    def _note(self, origin: int, *, is_match: bool) -> None:
        key = _origin_key(origin)
        if is_match:
            self._suspects.discard(key)
        else:
            self._suspects.add(key, self._clock())

    def _run(self, subject: str, stored: str, password: bytes) -> bool:
        """In a pool thread."""
        try:
            is_match = self._check(stored, password, allow_plain=self._allow_plain)
            paid = is_match or is_costly(stored)
        except BadHash as error:
            _log.warning("the stored hash of %s is unusable: %s", subject, error)
            is_match = paid = False
        if not paid:
            self._check(self._dummy, password)
        return is_match
