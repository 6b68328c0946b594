"""redirect (RFC 5228 §4.2): the message goes on to another address, durable in the relay queue.

What may go wrong with a redirect is that it goes in circles, or that an account is used to flood somebody.
In each such case the message stays, and the log says why: it is never lost and never sent back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.ports import MailKind, Outbox
from protocols.sieve.outcome import Action, Keep, Redirect, Rewritten
from storage.addresses import BadAddress, canonical
from storage.errors import InvalidName, StorageError

from .content import Pieces, sent_on
from .handover import HELD_S, Handover
from .means import Means
from .occasion import Occasion, Sent
from .way import Way, read_way

# Relays refuse mail with more than 50 (Postfix: hopcount_limit); it would come back as a failure.
MAX_HOSTS = 45
# Queued together they share syncs of the queue's directory; the threads are those of the whole process.
AT_ONCE = 8


@dataclass(slots=True)
class _Plan:
    """``going``: what to send, by canonical address."""

    going: dict[str, Redirect] = field(default_factory=dict)
    kept: list[Action] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keeps: bool = False

    def keep(self, why: str) -> None:
        self.keeps = True
        self.notes.append(f"redirect: {why}, the message is kept")

    def sent(self) -> Sent:
        return Sent(self.keeps, tuple(self.kept), (), tuple(self.notes))


async def redirect(means: Means, occasion: Occasion, actions: Sequence[Redirect]) -> Sent:
    """A row of ``sending.SENDERS``."""
    plan = _Plan()
    if means.outbox is None:
        plan.keep("this node has no relay")
        return plan.sent()
    way = read_way(occasion.header)
    for action in actions:
        _judge(means, occasion, way, action, plan)
    if plan.going:
        await _Errand(means, means.outbox, occasion, way).run(plan)
    return plan.sent()


def _judge(means: Means, occasion: Occasion, way: Way, action: Redirect, plan: _Plan) -> None:
    """Into the plan as what to send, or as a keep."""
    if action.list_name:
        plan.keep(f"there is no list {action.list_name!r}")
        return
    try:
        address = canonical(action.address)
    except BadAddress:
        plan.keep(f"{action.address!r} is no address")
        return
    if occasion.is_own(address):
        plan.kept.append(Keep(action.rule, (), action.message))
        return
    trouble = _circle(means, occasion, way, address)
    if trouble:
        plan.keep(trouble)
    else:
        plan.going.setdefault(address, action)


def _circle(means: Means, occasion: Occasion, way: Way, address: str) -> str:
    """Why sending it there would not end; empty when nothing speaks against it."""
    if address in way.delivered_to:
        return f"it was at {address} before"
    if way.hops and any(occasion.is_own(each) for each in way.delivered_to):
        return "it was sent on from here before"
    most = means.limits.redirect_hops
    if most and way.hops >= most:
        return f"it was sent on {way.hops} times before"
    if way.received_fields >= MAX_HOSTS:
        return f"it has passed {way.received_fields} hosts"
    return ""


async def _all(submissions: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Each to its end, also when one fails: what is queued has to be known."""
    for result in await asyncio.gather(*submissions, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class _Errand:
    """Sends one message to several addresses, each once."""

    def __init__(self, means: Means, outbox: Outbox, occasion: Occasion, way: Way) -> None:
        self._means = means
        self._handover = Handover(means, outbox, occasion)
        self._occasion = occasion
        self._hops = way.hops + 1
        self._contents: dict[Rewritten | None, Pieces] = {}

    async def run(self, plan: _Plan) -> None:
        """Raises StorageError: what was queued goes, and the rest is for the next attempt."""
        keys = {self._occasion.key("redirect", address): each for address, each in plan.going.items()}
        unsent = await self._handover.unsent(list(keys))
        admitted = await self._admit(unsent)
        if len(admitted) < len(unsent):
            plan.keep(f"more than {self._means.limits.redirects} of the account in a short time")
        going = [key for key in unsent if key in admitted]
        try:
            for start in range(0, len(going), AT_ONCE):
                some = going[start : start + AT_ONCE]
                await _all(self._submit(keys[key], key, plan) for key in some)
        except StorageError:
            await self._handover.finish_if_possible()
            raise
        await self._handover.finish()

    async def _admit(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        limits = self._means.limits
        if not keys or not limits.redirects:
            return frozenset(keys)
        return await self._means.redirect_log.admit(
            self._occasion.account_id, keys, limit=limits.redirects, window_s=limits.redirects_window_s
        )

    async def _submit(self, action: Redirect, key: bytes, plan: _Plan) -> None:
        occasion = self._occasion
        try:
            name = await self._handover.outbox.submit(
                self._sender(),
                [action.address],
                self._content(action.message),
                kind=MailKind.REDIRECT,
                account=occasion.account_id,
                key=key,
                dsn=occasion.dsn,
                held_s=HELD_S,
            )
        except InvalidName as error:
            plan.keep(str(error))
        else:
            self._handover.queued(key, name)

    def _sender(self) -> str:
        srs, sender = self._means.srs, self._occasion.sender
        return srs.forward(sender, self._means.today()) if srs is not None and sender else sender

    def _content(self, rewritten: Rewritten | None) -> Pieces:
        if rewritten not in self._contents:
            self._contents[rewritten] = sent_on(self._occasion, rewritten, self._hops)
        return self._contents[rewritten]
