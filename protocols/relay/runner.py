"""Empties the relay queue: takes what is due, hands it to the transport, notes what became of it.

Theory: the queue on disk is the truth; here are only a window of what is due next, a few messages that have
been taken, and the deliveries that run. A verdict is durable before the next step rests on it, so whatever
ends this process, the next one goes on from the file.

An attempt belongs to a message, a failure of the relay to the breaker: while that is open, messages are left
where they are and lose no attempts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from storage.budget import ByteBudget
from storage.dsn import NO_REQUEST, RecipientDsn
from storage.errors import NotFound, StorageError
from storage.model import AccountId
from storage.relayfile import Fate, Record, RelayMessage, Verdict
from storage.relaywindow import DueWindow

from .breaker import Breaker, BreakerState
from .dsn import MAX_HEADER_BYTES, Action, Failure, Reported, report
from .figures import RelayFigures
from .queue import Bouncer, Claims, Queue
from .transport import RelayDown, Transport

log = logging.getLogger("sora.relay")

# RFC 5321 §4.5.3.1.8: a server takes at least this many recipients at once.
RECIPIENTS_AT_ONCE: Final = 100
# Bodies in memory; a message is there up to four times (as read, with CRLF, with dots, in the transport).
BUDGET_BYTES: Final = 256 * 1024 * 1024
COPIES: Final = 4
SETTLE_AGAIN_S: Final = 5.0  # until what became of a message can be written down
STOP_WITHIN_S: Final = 10.0
MAX_HELD_S: Final = 60.0  # of what waits for its release (``sending.handover``), with some room


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    hostname: str
    interval_s: float = 60.0
    batch_size: int = 100
    concurrency: int = 5
    max_attempts: int = 10
    backoff_s: tuple[float, ...] = (60.0,)
    failed_retention_s: float = 0.0
    cleanup_interval_s: float = 3600.0

    def pause_after(self, attempts: int) -> float:
        """Seconds until the next attempt; the last of the list repeats."""
        return self.backoff_s[min(max(attempts, 1), len(self.backoff_s)) - 1]

    @property
    def longest_pause_s(self) -> float:
        return max(*self.backoff_s, MAX_HELD_S)


class Runner:
    """``clock``: seconds since 1970; ``monotonic``: of the breaker and of intervals."""

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        breaker: Breaker,
        bouncer: Bouncer,
        claims: Claims,
        settings: RunnerSettings,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._transport = transport
        self.breaker = breaker
        self._bouncer = bouncer
        self._claims = claims
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._window = DueWindow()
        self._late: list[tuple[float, str]] | None = None  # queued while the directory is looked through
        self._ready: deque[RelayMessage] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._budget = ByteBudget(BUDGET_BYTES)
        self._wake = asyncio.Event()
        self._looked_at = -math.inf
        self._swept_at = -math.inf
        self._retiring: set[asyncio.Task[None]] = set()
        self.figures = RelayFigures()

    # --- from outside ---

    def offer(self, due_at: float, message_id: str) -> None:
        """A message has been queued. On the loop's thread."""
        self._window.offer(due_at, message_id)
        if self._late is not None:
            self._late.append((due_at, message_id))
        self.figures.pending += 1
        self._wake.set()

    def look_soon(self) -> None:
        """Messages were queued that nobody told of one by one."""
        self._looked_at = -math.inf
        self._wake.set()

    def replace(self, transport: Transport, breaker: Breaker, settings: RunnerSettings) -> None:
        """From the next transaction on. What runs ends as it began. On the loop's thread."""
        before, self._transport = self._transport, transport
        self.breaker, self._settings = breaker, settings
        task = asyncio.create_task(_retire(before, list(self._running.values())))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        self._wake.set()

    def overdue_s(self) -> float:
        """For how long the message has been due that waits longest; 0.0 when none is."""
        due_at = self._window.next_due()
        return max(0.0, self._clock() - due_at) if math.isfinite(due_at) else 0.0

    @property
    def busy_count(self) -> int:
        return len(self._busy())

    def is_busy_with(self, message_id: str) -> bool:
        return message_id in self._busy()

    async def run(self, stop: asyncio.Event) -> None:
        """A worker: until ``stop``, then what runs may end within ``STOP_WITHIN_S``."""
        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    await self._turn()
                    self.figures.trouble = ""
                except StorageError as error:
                    self._complain("the relay queue cannot be worked on: %s", error)
                    self._looked_at = -math.inf  # for what the error left in processing
                    await self._sleep(SETTLE_AGAIN_S)
            await self._finish_running()
        finally:
            stopped.cancel()
            await self._end()

    # --- turns ---

    async def _turn(self) -> None:
        """Keep house, begin what may begin, and wait until something has changed."""
        await self._keep_house()
        if self.breaker.state(self._monotonic()) is BreakerState.OPEN:
            await self._release()
        elif len(self._ready) < self._settings.concurrency:
            await self._take()
        self._begin()
        await self._pause(self._idle_s())

    async def _keep_house(self) -> None:
        now = self._monotonic()
        if now - self._swept_at >= self._settings.cleanup_interval_s:
            self._swept_at = now
            retention_s = self._settings.failed_retention_s
            removed = await asyncio.to_thread(self._queue.sweep, retention_s)
            self.figures.expired += removed
        if self._window.must_refill or now - self._looked_at >= self._settings.interval_s:
            await self._look()

    async def _look(self) -> None:
        """Through the whole directory: also for what nobody told of, or what an error left behind."""
        self._looked_at = self._monotonic()
        busy = self._busy()
        self._late = []
        try:
            await asyncio.to_thread(self._queue.recover, busy)
            found, count = await asyncio.to_thread(self._earliest)
            failed = await asyncio.to_thread(lambda: len(self._queue.ids("failed")))  # operators change it
        finally:
            late, self._late = self._late, None
        self._window.replace(found)
        for due_at, message_id in late:
            self._window.offer(due_at, message_id)
        self.figures.pending, self.figures.failed = count, failed

    def _earliest(self) -> tuple[list[tuple[float, str]], int]:
        counter = itertools.count()
        entries = self._queue.entries(self._settings.longest_pause_s)
        found = self._window.earliest(entry for entry, _ in zip(entries, counter, strict=False))
        return found, next(counter)

    async def _take(self) -> None:
        ids = [each for _, each in self._window.take(self._clock(), self._settings.batch_size)]
        if ids:
            taken = await asyncio.to_thread(self._queue.take, ids, self._settings.longest_pause_s)
            self._ready.extend(taken)
            self.figures.pending -= len(taken)

    async def _release(self) -> None:
        """Nothing is tried while the relay is down."""
        released, self._ready = self._ready, deque()
        if released:
            await asyncio.to_thread(self._queue.release, [each.id for each in released])
            now = self._clock()
            for each in released:
                self._window.offer(now, each.id)
            self.figures.pending += len(released)

    def _begin(self) -> None:
        while (
            self._ready
            and len(self._running) < self._settings.concurrency
            and self.breaker.permits(self._monotonic(), len(self._running))
        ):
            message = self._ready.popleft()
            task = asyncio.create_task(self._deliver(message), name=f"relay {message.id}")
            self._running[message.id] = task
            task.add_done_callback(partial(self._ended, message.id))

    def _ended(self, message_id: str, _task: asyncio.Task[None]) -> None:
        del self._running[message_id]
        self._wake.set()

    def _idle_s(self) -> float:
        """Until something is due by itself."""
        now = self._monotonic()
        waits: list[float] = [
            self._looked_at + self._settings.interval_s - now,
            self._swept_at + self._settings.cleanup_interval_s - now,
        ]
        blocked_s = self.breaker.reopens_in(now)
        if blocked_s:
            waits.append(blocked_s)
        elif len(self._running) < self._settings.concurrency and not self._ready:
            waits.append(self._window.next_due() - self._clock())
            if self._window.must_refill:
                waits.append(0.0)
        return max(0.0, min(waits))

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return

    def _busy(self) -> set[str]:
        return {*self._running, *(each.id for each in self._ready)}

    async def _finish_running(self) -> None:
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=STOP_WITHIN_S)

    async def _end(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, *self._retiring, return_exceptions=True)
        left, self._ready = self._ready, deque()
        try:
            await asyncio.to_thread(self._queue.release, [each.id for each in left])
        except StorageError as error:
            log.warning("%d messages go back to the queue at the next start: %s", len(left), error)
        await self._transport.close()

    # --- one message ---

    async def _deliver(self, message: RelayMessage) -> None:
        try:
            if await self._goes(message) and await self._tell(message):
                if message.open_positions:
                    await self._attempt(message)
                    await self._tell(message)
                await self._conclude(message)
        except NotFound as error:
            log.warning("%s has vanished from the queue: %s", message.id, error)
        except StorageError as error:
            self._complain(f"{message.id} waits in processing: %s", error)
            self._looked_at = -math.inf  # finds it, and puts it back
        except Exception:  # a worker loop
            log.exception("%s could not be handled and is tried again", message.id)
            self.figures.bugs += 1
            await self._defer(message, "4.3.0", "internal error")
            await self._conclude(message)

    async def _goes(self, message: RelayMessage) -> bool:
        """Whether it is this copy that is relayed. Nobody has released what was held: who queued it may have
        died, and another copy may have gone since, from here or from another node."""
        hold, account = message.unreleased, message.envelope.account
        if hold is None or account is None:
            return True
        try:
            won = await self._claims.claim_handover(AccountId(account), {hold.key: message.id})
        except NotFound:
            return True  # the account is gone; its mail was taken, and is not lost for that
        except StorageError as error:
            self._complain(f"{message.id} waits, as nobody knows whether it was sent: %s", error)
            await asyncio.to_thread(self._queue.release, [message.id])  # the next look finds it
            return False
        if not won:
            log.info("%s is dropped: another copy of it was sent", message.id)
            await self._settle(self._queue.finish, message.id)
        return bool(won)

    async def _attempt(self, message: RelayMessage) -> None:
        envelope = message.envelope
        async with self._budget.hold(envelope.size_bytes * COPIES):
            body = await asyncio.to_thread(self._queue.body, message)
            for positions in _in_chunks(message.open_positions, RECIPIENTS_AT_ONCE):
                began = self._monotonic()
                recipients = [envelope.recipients[at] for at in positions]
                breaker = self.breaker  # of this transport: both may be replaced before it answers
                try:
                    wishes = envelope.dsn.only(positions) if envelope.dsn else NO_REQUEST
                    verdicts = await self._transport.send(envelope.sender, recipients, body, wishes)
                except RelayDown as down:
                    await self._note_down(message, breaker, down)
                    return
                now = self._monotonic()
                breaker.went_well(now)
                self.figures.took(now - began)
                is_last = positions[-1] == message.open_positions[-1]
                await self._note(message, dict(zip(positions, verdicts, strict=True)), is_attempt=is_last)

    async def _note_down(self, message: RelayMessage, breaker: Breaker, down: RelayDown) -> None:
        """Nobody of those who are still open got it."""
        if breaker.failed(self._monotonic()) and breaker is self.breaker:
            pause_s = breaker.timeout_s
            log.error("the relay cannot be used and is left alone for %.0f s: %s", pause_s, down.reply)
        self.figures.relay_failures += 1
        self.figures.last_failure = down.reply
        await self._defer(message, down.status, down.reply)

    async def _defer(self, message: RelayMessage, status: str, reply: str) -> None:
        verdict = Verdict(Fate.DEFERRED, status, reply, "")
        await self._note(message, dict.fromkeys(message.open_positions, verdict), is_attempt=True)

    async def _note(self, message: RelayMessage, verdicts: dict[int, Verdict], *, is_attempt: bool) -> None:
        if is_attempt and message.progress.attempts + 1 >= self._settings.max_attempts:
            verdicts = {at: _given_up(each) for at, each in verdicts.items()}
        for verdict in verdicts.values():
            self.figures.verdicts[message.envelope.kind, verdict.fate.value] += 1
        record = Record(self._clock(), verdicts, is_attempt=is_attempt)
        self._log(message, record)
        if _is_all(message, verdicts) and not _owes_confirmation(message, verdicts):
            message.progress.fold(record)  # removing the file says the same
        else:
            await self._settle(self._queue.record, message, record)

    def _log(self, message: RelayMessage, record: Record) -> None:
        envelope = message.envelope
        for at, verdict in record.verdicts.items():
            level = logging.INFO if verdict.fate is Fate.TAKEN else logging.WARNING
            log.log(
                level,
                "relayed: %s" if verdict.fate is Fate.TAKEN else f"{verdict.fate.value}: %s",
                verdict.reply,
                extra={
                    "fields": {
                        "message": message.id,
                        "kind": envelope.kind,
                        "from": envelope.sender,
                        "to": envelope.recipients[at],
                        "status": verdict.status,
                        "attempt": message.progress.attempts + 1,
                    }
                },
            )

    async def _tell(self, message: RelayMessage) -> bool:
        """Report to the sender what is due, each thing once. False: not possible now, the message is back in
        the queue."""
        for action, untold in _untold(message).items():
            wanted = [at for at in untold if _wants(message.envelope.dsn.of(at), action)]
            try:
                result = await self._report(message, action, wanted) if wanted else "unwanted"
            except StorageError as error:
                self._complain(f"no report of {message.id} to its sender for now: %s", error)
                await self._postpone(message)
                return False
            self.figures.bounces[result] += 1
            await self._settle(self._queue.record, message, Record(self._clock(), told=frozenset(untold)))
        return True

    async def _report(self, message: RelayMessage, action: Action, positions: Sequence[int]) -> str:
        envelope, progress = message.envelope, message.progress
        if not envelope.sender:
            return "none"  # RFC 5321 §6.1: what has no sender is never bounced
        head = await asyncio.to_thread(self._queue.body, message, "processing", MAX_HEADER_BYTES + 4)
        fates = [
            Failure(envelope.recipients[at], progress.verdicts[at], envelope.dsn.of(at).orcpt)
            for at in positions
        ]
        at = progress.refused_at if action is Action.FAILED else progress.last_attempt_at
        reported = Reported(envelope.id, envelope.sender, envelope.created_at, envelope.dsn.message.envid)
        made = report(action, reported, fates, head, hostname=self._settings.hostname, at=at)
        word = "bounce" if action is Action.FAILED else action.value
        key = f"{word} {envelope.id} {at} {positions}".encode()
        return await self._bouncer.bounce(envelope.sender, made, key)

    async def _conclude(self, message: RelayMessage) -> None:
        if message.open_positions:
            await self._postpone(message)
        elif message.progress.with_fate(Fate.REFUSED):
            await self._settle(self._queue.bury, message.id)
            self.figures.failed += 1
        else:
            await self._settle(self._queue.finish, message.id)

    async def _postpone(self, message: RelayMessage) -> None:
        due_at = self._clock() + self._settings.pause_after(message.progress.attempts)
        await self._settle(self._queue.postpone, message.id, due_at)
        self.offer(due_at, message.id)

    async def _settle(self, write: Callable[..., None], *arguments: object) -> None:
        """Write down what happened. Until that is possible nothing else happens to the message: the remote
        has spoken, and to forget it would be to send the message twice."""
        while True:
            try:
                await asyncio.to_thread(write, *arguments)
            except NotFound:
                raise
            except StorageError as error:
                self._complain("what became of relayed mail cannot be written down yet: %s", error)
                await self._sleep(SETTLE_AGAIN_S)
            else:
                return

    def _complain(self, text: str, error: StorageError) -> None:
        self.figures.trouble = str(error)
        log.error(text, error)


async def _retire(transport: Transport, users: Sequence[asyncio.Task[None]]) -> None:
    if users:
        await asyncio.wait(users)
    await transport.close()


def _in_chunks(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    positions = tuple(positions)
    return (positions[at : at + size] for at in range(0, len(positions), size))


def _given_up(verdict: Verdict) -> Verdict:
    """RFC 3463 §3.5: delivery time expired. The reply stays: it says why."""
    return replace(verdict, fate=Fate.REFUSED, status="5.4.7") if verdict.fate is Fate.DEFERRED else verdict


def _is_all(message: RelayMessage, verdicts: dict[int, Verdict]) -> bool:
    """Everybody got it, just now."""
    return len(verdicts) == len(message.envelope.recipients) and all(
        each.fate is Fate.TAKEN for each in verdicts.values()
    )


def _untold(message: RelayMessage) -> dict[Action, list[int]]:
    """Recipients of whom the sender does not know yet what became of them. Who took the message and sends
    reports itself tells of successes (RFC 3461 §5.2.2); for who does not, we do."""
    progress, dsn = message.progress, message.envelope.dsn
    refused = [at for at in progress.with_fate(Fate.REFUSED) if at not in progress.told]
    taken = [
        at
        for at in progress.with_fate(Fate.TAKEN)
        if at not in progress.told and dsn.of(at).wants_success and not progress.verdicts[at].has_dsn
    ]
    found = {Action.FAILED: refused, Action.RELAYED: taken}
    return {action: positions for action, positions in found.items() if positions}


def _wants(wishes: RecipientDsn, action: Action) -> bool:
    return wishes.wants_failure if action is Action.FAILED else wishes.wants_success


def _owes_confirmation(message: RelayMessage, verdicts: dict[int, Verdict]) -> bool:
    dsn = message.envelope.dsn
    return bool(dsn) and any(dsn.of(at).wants_success and not each.has_dsn for at, each in verdicts.items())
