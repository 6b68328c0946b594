"""The ``relay.*`` commands of the control socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from storage.errors import Corrupt, NotFound, NotPermitted, StorageError
from storage.relayadopt import Adoption
from storage.relaylayout import FAILED, STATES
from storage.relayqueue import RelayQueue, SpoolTaken

from .control import Arguments, ControlRefused, Handler, text_argument
from .relaylook import count_messages, list_messages, show_message

if TYPE_CHECKING:
    from protocols.relay.runner import Runner

T = TypeVar("T")
MAX_LISTED: Final = 10_000
_CODES: Final = {NotFound: "not_found", NotPermitted: "usage", Corrupt: "not_found"}


def without_relay() -> dict[str, Handler]:
    """The same commands of a node that has none."""
    return {f"relay.{name}": _refuse for name in ("list", "show", "retry", "delete", "stats", "adopt")}


async def _refuse(_arguments: Arguments) -> object:
    raise ControlRefused("usage", "this node relays no mail: [relay] type is not set")


class RelayCommands:
    def __init__(self, queue: RelayQueue, runner: Runner) -> None:
        self._queue = queue
        self._runner = runner

    def table(self) -> dict[str, Handler]:
        return {
            "relay.list": self.all,
            "relay.show": self.show,
            "relay.retry": self.retry,
            "relay.delete": self.delete,
            "relay.stats": self.stats,
            "relay.adopt": self.adopt,
        }

    async def all(self, arguments: Arguments) -> object:
        """``state``: one of the three, or none for all; ``limit``: how many at most."""
        state = arguments.get("state")
        if state is not None and state not in STATES:
            raise ControlRefused("usage", f"state is one of {', '.join(STATES)}")
        limit = arguments.get("limit", 100)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= MAX_LISTED:
            raise ControlRefused("usage", f"limit is a number up to {MAX_LISTED}")
        return await _run(lambda: list_messages(self._queue, state, limit))

    async def show(self, arguments: Arguments) -> object:
        message_id = text_argument(arguments, "id")
        return await _run(lambda: show_message(self._queue, message_id))

    async def retry(self, arguments: Arguments) -> object:
        """``id``, or ``all`` true for all failed ones."""
        return {"retried": await self._each(arguments, self._queue.retry, self._told)}

    async def delete(self, arguments: Arguments) -> object:
        """``id``, or ``all`` true for all failed ones. Their senders are not told."""
        return {"deleted": await self._each(arguments, self._queue.delete, lambda _id: None)}

    async def stats(self, _arguments: Arguments) -> object:
        now = time.monotonic()
        figures, breaker = self._runner.figures, self._runner.breaker
        counted = await _run(lambda: count_messages(self._queue))
        return {
            **counted,
            "breaker": breaker.state(now).name.lower(),
            "tried_again_in_s": round(breaker.reopens_in(now), 3),
            "last_failure": figures.last_failure,
            "trouble": figures.trouble,
        }

    async def adopt(self, arguments: Arguments) -> object:
        directory = Path(text_argument(arguments, "directory"))
        if not directory.is_absolute():
            raise ControlRefused("usage", "directory must be an absolute path")
        adopted = await _run(Adoption(self._queue, directory).run)
        self._runner.look_soon()
        return {"pending": adopted.pending, "failed": adopted.failed}

    async def _each(
        self, arguments: Arguments, act: Callable[[str], None], done: Callable[[str], None]
    ) -> list[str]:
        if arguments.get("all") is True:
            ids = await _run(lambda: self._queue.ids(FAILED))
        else:
            ids = [text_argument(arguments, "id")]
        for message_id in ids:
            if self._runner.is_busy_with(message_id):
                raise ControlRefused("busy", f"{message_id} is being delivered now")
            await _run(lambda wanted=message_id: act(wanted))  # type: ignore[misc]
            done(message_id)
        return ids

    def _told(self, message_id: str) -> None:
        self._runner.offer(time.time(), message_id)


async def _run(work: Callable[[], T]) -> T:
    """Off the loop. Raises ControlRefused."""
    try:
        return await asyncio.to_thread(work)
    except SpoolTaken as error:
        raise ControlRefused("busy", f"{error}; stop the node that uses it first") from error
    except StorageError as error:
        raise ControlRefused(_CODES.get(type(error), "busy"), str(error)) from error
