"""Appends of single messages that come at the same time share a statement and its commit.

Theory: while a statement of this kind is under way, what comes in waits for its end and then goes together.
A message that comes alone goes at once, with those of the same turn of the loop. So under load the costs of a
statement and of its commit are divided among many. Who has just been answered often has the next message at
hand: without patience for it, two halves of the clients would take turns. So the next statement waits until
as many are there as were at the end of the last one, and not longer than that one took. A message waits for
one statement before its own at most, and for as long again.

Invariants:

* The messages of a group are for different mailboxes (the caller has the mailbox's turn), and no two of them
  have the same content or delivery key.
* A message never waits for another one's mailbox: mailboxes that somebody holds are passed over here, and
  their messages are appended one by one, beside the groups. A statement that hangs for another reason gives
  its place away.
* What a group did not do, for its mailbox's sake or because of an error that says that nothing was written,
  is done one by one: each message has an outcome of its own. Only an unknown commit is unknown for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from storage.errors import CommitUnknown, StorageError
from storage.model import NewMessage, StagedContent

from .pool import Record

# Of a statement that keeps the others waiting.
PATIENCE_S = 0.25
# At most for others that may come, however long the statement before took.
COMPANY_S = 0.005
MAX_GROUP = 64
MAX_GROUP_BYTES = 512 * 1024
# Larger messages go alone: the others should not wait until they have been sent.
MAX_MESSAGE_BYTES = 64 * 1024

Rows: TypeAlias = list[Record]


@dataclass(slots=True, eq=False)
class Letter:
    staged: StagedContent
    message: NewMessage
    rows: asyncio.Future[Rows]

    @property
    def size_bytes(self) -> int:
        return self.staged.encoded_bytes + len(self.staged.content.header)


def is_groupable(staged: StagedContent, messages: Sequence[NewMessage]) -> bool:
    size_bytes = staged.encoded_bytes + len(staged.content.header)
    return len(messages) == 1 and len(staged.frames) <= 1 and size_bytes <= MAX_MESSAGE_BYTES


class AppendGroups:
    """``one`` appends one message and gives its row, none when there is no mailbox. ``at_once`` does the same
    for one or several, and gives no row for a mailbox that another transaction holds either."""

    def __init__(
        self,
        one: Callable[[StagedContent, NewMessage], Awaitable[Rows]],
        at_once: Callable[[Sequence[tuple[StagedContent, NewMessage]]], Awaitable[Rows]],
        *,
        patience_s: float = PATIENCE_S,
        company_s: float = COMPANY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._one = one
        self._at_once = at_once
        self._patience_s = patience_s
        self._company_s = company_s
        self._clock = clock
        self._place: asyncio.Handle | None = None  # of the statement that others wait for
        self._waiting: list[Letter] = []
        self._expected = 0  # so many do not wait for more; 0: a statement is under way
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, staged: StagedContent, message: NewMessage) -> Rows:
        """As ``one``. The caller has the mailbox's turn."""
        loop = asyncio.get_running_loop()
        letter = Letter(staged, message, loop.create_future())
        self._waiting.append(letter)
        if self._place is None:  # what comes in the same turn of the loop goes along
            self._place = loop.call_soon(self._give_away)
        elif len(self._waiting) == self._expected:
            self._place.cancel()
            self._give_away()
        return await letter.rows

    def _enter(self) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        self._place = loop.call_later(self._patience_s, self._give_away)
        return self._place

    def _leave(self, place: asyncio.TimerHandle, carried: int, took_s: float) -> None:
        if self._place is not place:
            return
        place.cancel()
        present = carried + len(self._waiting)
        if present == 1 or len(self._waiting) >= MAX_GROUP:
            self._give_away()
            return
        self._expected = min(present, MAX_GROUP)
        wait_s = min(took_s, self._company_s)
        self._place = asyncio.get_running_loop().call_later(wait_s, self._give_away)

    def _give_away(self) -> None:
        self._place = None
        self._expected = 0
        group = self._take()
        if group:
            task = asyncio.get_running_loop().create_task(self._run(group, self._enter()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[Letter]:
        """In the order in which they came; two of the same content or key do not go together."""
        group: list[Letter] = []
        left: list[Letter] = []
        taken: set[bytes] = set()
        room = MAX_GROUP_BYTES
        for letter in self._waiting:
            if letter.rows.done():  # nobody waits for it any more
                continue
            content_hash = letter.staged.content.hash
            marks = {content_hash, letter.message.delivery_key or content_hash}
            if len(group) == MAX_GROUP or letter.size_bytes > room or not taken.isdisjoint(marks):
                left.append(letter)
                continue
            group.append(letter)
            taken |= marks
            room -= letter.size_bytes
        self._waiting = left
        return group

    async def _run(self, group: Sequence[Letter], place: asyncio.TimerHandle) -> None:
        began = self._clock()
        try:
            try:
                rest = await self._together(group)
            finally:
                self._leave(place, len(group), self._clock() - began)
            if rest:
                await asyncio.gather(*map(self._alone, rest))
        finally:
            for letter in group:  # the task was cancelled
                _fail(letter, CommitUnknown("given up while it was written"))

    async def _together(self, group: Sequence[Letter]) -> Sequence[Letter]:
        """What is left to be done one by one."""
        try:
            found = await self._at_once([(letter.staged, letter.message) for letter in group])
        except CommitUnknown as error:
            for letter in group:
                _fail(letter, CommitUnknown(str(error)))
            return ()
        except (StorageError, asyncpg.PostgresError) as error:
            if len(group) > 1:
                return group  # nothing was written; who is to blame, each one shows
            _fail(group[0], error)
            return ()
        rows = {row["mailbox_id"]: row for row in found}
        rest = []
        for letter in group:
            row = rows.get(letter.message.mailbox_id)
            if row is None:
                rest.append(letter)
            elif not letter.rows.done():
                letter.rows.set_result([row])
        return rest

    async def _alone(self, letter: Letter) -> None:
        if letter.rows.done():
            return
        try:
            rows = await self._one(letter.staged, letter.message)
        except (StorageError, asyncpg.PostgresError) as error:
            _fail(letter, error)
            return
        if not letter.rows.done():
            letter.rows.set_result(rows)


def _fail(letter: Letter, error: Exception) -> None:
    if not letter.rows.done():
        letter.rows.set_exception(error)
