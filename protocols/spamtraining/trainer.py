"""Teaches in the background: a queue of where messages are, and a few requests at a time.

Theory: what waits is a name of a message, some 300 bytes; the message is read when its turn comes. So a queue
of bounded length holds little, whatever users move, and what has been deleted meanwhile is simply gone. The
queue lives in memory: lessons make a filter better, and to lose some when a process dies harms nobody.

An answer about the message ends its lesson. A failure of the filter counts for the breaker, and the lesson
goes to the end of the queue, so one message that the filter chokes on does not hold up the others. While
the breaker is open nothing is tried, and lessons wait.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols.ports import Identity
from protocols.relay.breaker import Breaker
from storage.api import BodySource, MailStore
from storage.errors import StorageError
from storage.mime.structure import decode_structure
from storage.model import AccountId, Mailbox, MessageRow, Uid, Wanted

from .endpoint import Endpoint, EndpointDown
from .lesson import Lesson, encode_lesson, judgement, without_attachments

log = logging.getLogger("sora.training")

MAX_WAITING: Final = 1_000
MAX_OF_ACCOUNT: Final = 250  # one user who tidies up leaves room for the others
CONCURRENCY: Final = 2  # each may hold some four times max_message_size
MAX_ATTEMPTS: Final = 10
AGAIN_AFTER_S: Final = 1.0
STOP_WITHIN_S: Final = 5.0


class Result(enum.Enum):
    TAUGHT = "taught"
    REFUSED = "refused"  # the filter does not want this message
    FAILED = "failed"  # too many attempts
    DROPPED = "dropped"  # the queue was full, or the process stopped
    GONE = "gone"  # deleted or moved on before its turn
    TOO_BIG = "too_big"
    UNREADABLE = "unreadable"


class _NotNow(Exception):
    """To be tried again."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """``waits_s``: how long the command of the user waits for its lessons; 0.0: not at all."""

    max_message_bytes: int
    max_attachment_bytes: int
    waits_s: float = 0.0


@dataclass(slots=True)
class _Waiting:
    lesson: Lesson
    attempts: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Trainer:
    """``protocols.ports.SpamTrainer``. ``clock``: monotonic seconds."""

    def __init__(
        self,
        mail: MailStore,
        bodies: BodySource,
        endpoint: Endpoint,
        breaker: Breaker,
        settings: TrainingSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._mail = mail
        self._bodies = bodies
        self._endpoint = endpoint
        self.breaker = breaker
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[_Waiting] = deque()
        self._of_account: Counter[AccountId] = Counter()
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_stopped = False
        self.results: Counter[tuple[str, str]] = Counter()  # (result, class)

    def __len__(self) -> int:
        """Lessons that wait or are under way."""
        return self._of_account.total()

    # --- the user's command ---

    async def moved(
        self,
        user: Identity,
        source: Mailbox,
        target: Mailbox,
        uids: Sequence[Uid],
        *,
        within_s: float | None = None,
    ) -> None:
        found = judgement(source.special_use, target.special_use)
        if found is None:
            return
        lessons = [
            Lesson(found, user.account_id, user.primary_address, source.name, target.name, target.id, uid)
            for uid in uids[: self._room(user.account_id)]
        ]
        self.results[Result.DROPPED.value, found.value] += len(uids) - len(lessons)
        waiting = [_Waiting(each) for each in lessons]
        self._waiting.extend(waiting)
        self._of_account[user.account_id] += len(waiting)
        self._wake.set()
        waits_s = self._settings.waits_s if within_s is None else min(self._settings.waits_s, within_s)
        if waits_s:
            await self._wait(waiting, waits_s)

    def _room(self, account_id: AccountId) -> int:
        if self._is_stopped:
            return 0
        return max(0, min(MAX_WAITING - len(self), MAX_OF_ACCOUNT - self._of_account[account_id]))

    async def _wait(self, waiting: Sequence[_Waiting], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                for each in waiting:
                    await each.done.wait()
        except TimeoutError:
            log.info("%d lessons of a command go on in the background", len(waiting))

    # --- the worker ---

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, then what waits may end within ``STOP_WITHIN_S``."""
        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                self._begin()
                await self._pause(self._idle_s())
            await self._finish()
        finally:
            stopped.cancel()
            await self._end()

    def _begin(self) -> None:
        self._wake.clear()
        while (
            self._waiting
            and len(self._running) < CONCURRENCY
            and self.breaker.permits(self._clock(), len(self._running))
        ):
            task = asyncio.create_task(self._teach(self._waiting.popleft()), name="spam training")
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()

    def _idle_s(self) -> float | None:
        blocked_s = self.breaker.reopens_in(self._clock())
        return blocked_s if self._waiting and blocked_s else None

    async def _pause(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return

    async def _finish(self) -> None:
        deadline = self._clock() + STOP_WITHIN_S
        while (left_s := deadline - self._clock()) > 0:
            self._begin()
            if not self._running:  # nothing waits, or the filter is down
                return
            await self._pause(left_s)

    async def _end(self) -> None:
        self._is_stopped = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._waiting:
            log.warning("%d lessons for the spam filter are dropped at the stop", len(self._waiting))
        while self._waiting:
            self._settle(self._waiting.popleft(), Result.DROPPED)
        await self._endpoint.close()

    # --- one lesson ---

    async def _teach(self, waiting: _Waiting) -> None:
        waiting.attempts += 1
        try:
            result = await self._result(waiting.lesson)
        except _NotNow as error:
            if waiting.attempts < MAX_ATTEMPTS:
                await self._rest(waiting)
                return
            log.warning("the spam filter is not taught of a message: %s", error)
            result = Result.FAILED
        except asyncio.CancelledError:
            self._settle(waiting, Result.DROPPED)
            raise
        except Exception:  # a worker loop
            log.exception("a lesson for the spam filter went wrong")
            result = Result.FAILED
        self._settle(waiting, result)

    async def _rest(self, waiting: _Waiting) -> None:
        """Its place among those that run stays taken meanwhile, so that failures do not come in a rush."""
        try:
            await self._sleep(AGAIN_AFTER_S)
        finally:
            self._waiting.append(waiting)

    def _settle(self, waiting: _Waiting, result: Result) -> None:
        lesson = waiting.lesson
        self.results[result.value, lesson.judgement.value] += 1
        self._of_account[lesson.account_id] -= 1
        if not self._of_account[lesson.account_id]:
            del self._of_account[lesson.account_id]
        waiting.done.set()

    async def _result(self, lesson: Lesson) -> Result:
        """Raises _NotNow."""
        try:
            rows = await self._mail.fetch(lesson.mailbox_id, [lesson.uid], Wanted.STRUCTURE)
            if not rows:
                return Result.GONE
            (row,) = rows
            size_bytes = len(row.prefix) + row.ref.size_bytes
            if size_bytes > self._settings.max_message_bytes:
                return Result.TOO_BIG
            body = await (await self._bodies.open(row.ref, row.prefix)).read()
            request = await asyncio.to_thread(self._encode, lesson, row, body)
        except StorageError as error:
            if error.transient:
                raise _NotNow(str(error)) from error
            log.warning("a message for the spam filter cannot be read: %s", error)
            return Result.UNREADABLE
        return await self._post(request)

    def _encode(self, lesson: Lesson, row: MessageRow, body: bytes) -> bytes:
        """Raises Corrupt."""
        root = decode_structure(row.structure)
        limit_bytes = self._settings.max_attachment_bytes
        message, left_out = without_attachments(body, len(row.prefix), root, limit_bytes)
        return encode_lesson(lesson, message, size_bytes=len(body), left_out=left_out, digest=row.ref.hash)

    async def _post(self, request: bytes) -> Result:
        try:
            is_taken = await self._endpoint.post(request)
        except EndpointDown as error:
            if self.breaker.failed(self._clock()):
                pause_s = self.breaker.timeout_s
                log.warning("the spam filter is left alone for %.0f s: %s", pause_s, error)
            raise _NotNow(str(error)) from error
        self.breaker.went_well(self._clock())
        return Result.TAUGHT if is_taken else Result.REFUSED
